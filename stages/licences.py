"""Licences: what the packages of an environment say they are under, as SPDX expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gates.licences import LicenceReport, Licensed
from pipeline import Stage, Tree, Work

if TYPE_CHECKING:
    from email.message import Message

CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "European Union Public Licence 1.2 (EUPL 1.2)": "EUPL-1.2",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2.0-only",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Universal Permissive License (UPL)": "UPL-1.0",
    "Zero-Clause BSD (0BSD)": "0BSD",
    "zlib/libpng License": "Zlib",
}
"""The trove classifiers that mean one licence. `BSD License` means several, so it is not one of them."""

WORDS = {
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd 2-clause license": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "new bsd license": "BSD-3-Clause",
    "gplv2": "GPL-2.0-only",
    "gplv3": "GPL-3.0-only",
    "isc license": "ISC",
    "mit license": "MIT",
    "the mit license": "MIT",
    "mpl 2.0": "MPL-2.0",
    "mozilla public license 2.0": "MPL-2.0",
    "psf": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "zpl 2.1": "ZPL-2.1",
}
"""What people write in the field `License`, in lower case, where it means one licence."""


class Licences(Stage[LicenceReport]):
    """The licence of each distribution in `environment`, read from its metadata (no tool, nothing is executed).

    `License-Expression` counts first, then `License` where it is an SPDX expression or a known wording, then the
    classifiers; several classifiers are taken together, as `AND`. What none of them tells is unknown: empty.
    """

    environment: Stage[Tree]

    async def run(self, work: Work) -> LicenceReport:
        store = work.store
        found = [
            of_metadata(store.read(store.file(work[self.environment], entry.path)))
            for entry in store.entries(work[self.environment])
            if is_metadata(entry.path)
        ]
        return LicenceReport(tool="lockgate licences", packages=tuple(sorted(found, key=lambda one: (one.name, one.version))))


def is_metadata(path: str) -> bool:
    """Whether a path of a site-packages tree is the metadata of a distribution.

    >>> is_metadata("anyio-4.9.dist-info/METADATA"), is_metadata("pip/_vendor/x-1.dist-info/METADATA")
    (True, False)
    """
    directory, _, file = path.partition("/")
    return (directory.endswith(".dist-info") and file == "METADATA") or (directory.endswith(".egg-info") and file == "PKG-INFO")


def of_metadata(text: bytes) -> Licensed:
    """One distribution from its core metadata."""
    from email.parser import BytesParser
    from email.policy import compat32

    fields = BytesParser(policy=compat32).parsebytes(text, headersonly=True)
    classifiers = [
        str(value).split(" :: ")[-1] for value in fields.get_all("Classifier", []) if str(value).startswith("License ::")
    ]
    stated = [_field(fields, "License-Expression"), _field(fields, "License"), *classifiers]
    return Licensed(
        name=_field(fields, "Name") or "unnamed",
        version=_field(fields, "Version"),
        licence=expression(_field(fields, "License-Expression"), _field(fields, "License"), tuple(classifiers)),
        stated="; ".join(one.splitlines()[0][:100] for one in stated if one),
    )


def _field(fields: Message, name: str) -> str:
    value = str(fields.get(name, "")).strip()
    return "" if value.upper() == "UNKNOWN" else value


def expression(stated: str, field: str, classifiers: tuple[str, ...]) -> str:
    """The SPDX expression that metadata mean; empty when they mean none that is known.

    >>> expression("mit or apache-2.0", "", ()), expression("", "BSD", ("BSD License",)), expression("", "", ("MIT License",))
    ('MIT OR Apache-2.0', '', 'MIT')
    """
    if stated:
        return spdx(stated)
    if found := spdx(field) or WORDS.get(" ".join(field.lower().split()), ""):
        return found
    known = [CLASSIFIERS.get(classifier, "") for classifier in classifiers if classifier != "OSI Approved"]
    return " AND ".join(dict.fromkeys(known)) if known and all(known) else ""


def spdx(text: str) -> str:
    """The expression in its canonical form; empty when it is none of SPDX."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return ""
