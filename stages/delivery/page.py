"""The page of a router while nobody serves."""

MAINTENANCE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Back in a moment</title>
<body style="font-family: sans-serif; text-align: center; padding: 4em">
<h1>Back in a moment</h1><p>The service is being updated.</p>
</body></html>
"""
