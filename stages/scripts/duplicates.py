"""Count lines of Python code and find those that stand in two places.

    python duplicates.py REPORT.json SMALLEST FILE...

Lines are compared without comments, docstrings, blank space and line breaks between tokens; imports never count
as duplicates. SMALLEST is the least number of lines in a row. A file that is no Python ends this with 1.
"""

import json
import sys
import tokenize
from collections.abc import Iterator

LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}

Line = tuple[str, int, str]
"""File, number, and the tokens of one line of code."""


def main(report: str, smallest: str, *files: str) -> int:
    lines: list[list[Line]] = []
    for file in files:
        try:
            lines.append(list(code_lines(file)))
        except (SyntaxError, UnicodeDecodeError, tokenize.TokenError) as error:
            print(f"{file}: {error}")
            return 1
    found = {
        "files": len(files),
        "lines": sum(len(of_file) for of_file in lines),
        "duplicates": list(duplicates([comparable(of_file) for of_file in lines], int(smallest))),
    }
    with open(report, "w", encoding="utf-8") as output:
        json.dump(found, output)
    return 0


def code_lines(file: str) -> Iterator[Line]:
    """The lines of a file that hold code; one in several physical lines is cut where the file cuts it."""
    with open(file, "rb") as source:
        statement: list[tokenize.TokenInfo] = []
        for token in tokenize.tokenize(source.readline):
            if token.type in (tokenize.NEWLINE, tokenize.ENDMARKER):
                if any(part.type != tokenize.STRING for part in statement):
                    yield from by_line(file, statement)
                statement = []
            elif token.type not in LAYOUT:
                statement.append(token)


def by_line(file: str, statement: list[tokenize.TokenInfo]) -> Iterator[Line]:
    numbers: dict[int, list[str]] = {}
    for token in statement:
        numbers.setdefault(token.start[0], []).append(token.string)
    for number, tokens in numbers.items():
        yield file, number, " ".join(tokens)


def comparable(lines: list[Line]) -> list[Line]:
    return [line for line in lines if not line[2].startswith(("import ", "from "))]


def duplicates(files: list[list[Line]], smallest: int) -> Iterator[dict[str, object]]:
    """Each stretch of at least `smallest` lines that stood somewhere before, as long as it goes."""
    known: dict[tuple[str, ...], tuple[int, int]] = {}
    for number, lines in enumerate(files):
        at = 0
        while at + smallest <= len(lines):
            window = tuple(text for _, _, text in lines[at : at + smallest])
            if window not in known:
                known[window] = (number, at)
                at += 1
                continue
            other, start = known[window]
            length = common(files[other], start, lines, at)
            if other == number:
                length = min(length, at - start)
            if length < smallest:  # it overlaps itself
                at += 1
                continue
            first, second = files[other][start], lines[at]
            yield {"lines": length, "first": f"{first[0]}:{first[1]}", "second": f"{second[0]}:{second[1]}"}
            at += length


def common(one: list[Line], start: int, other: list[Line], at: int) -> int:
    """How many lines from here on are the same in both."""
    length = 0
    while start + length < len(one) and at + length < len(other) and one[start + length][2] == other[at + length][2]:
        length += 1
    return length


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
