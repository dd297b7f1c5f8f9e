"""issue-value: the one grammar of CAA issue properties (RFC 8659 4.2) and of the records of dns-persist-01.

Tags are folded to lower case, values are kept; what a tag means is the reader's business.
"""

import re
from dataclasses import dataclass

# Possessive, so that a hostile value of 64 KiB white space is read once and not once per octet.
_WSP = r"[ \t]*+"
_LABEL = r"[0-9A-Za-z](?:-*[0-9A-Za-z])*"
_PARAMETER = rf"{_LABEL}{_WSP}={_WSP}[\x21-\x3a\x3c-\x7e]*"
# RFC 8659 4.2: issue-value = *WSP [issuer-domain-name *WSP] [";" *WSP [parameters *WSP]]
_ISSUE_VALUE = re.compile(
    rf"{_WSP}(?P<issuer>{_LABEL}(?:\.{_LABEL})*)?{_WSP}"
    rf"(?:;{_WSP}(?P<parameters>{_PARAMETER}(?:{_WSP};{_WSP}{_PARAMETER})*)?{_WSP})?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueValue:
    """Who may issue, "" for nobody, and under which conditions: (tag, value) in the order written."""

    issuer: str
    parameters: tuple[tuple[str, str], ...]

    def values(self, tag: str) -> list[str]:
        """Every value of one tag, which is given in lower case."""
        return [value for name, value in self.parameters if name == tag]


def parse_issue_value(value: bytes) -> IssueValue | None:
    """The value taken apart, or None when the grammar does not have it."""
    try:
        match = _ISSUE_VALUE.fullmatch(value.decode("ascii"))
    except UnicodeDecodeError:
        return None
    if match is None:
        return None
    parameters = []
    for parameter in match["parameters"].split(";") if match["parameters"] else ():
        tag, _, content = parameter.partition("=")
        parameters.append((tag.strip(" \t").lower(), content.strip(" \t")))
    return IssueValue(issuer=match["issuer"] or "", parameters=tuple(parameters))


def issuer_part(value: bytes) -> str:
    """Whom a value is about, as far as that can be told although the rest may not parse: what stands before the first
    semicolon, in lower case."""
    return value.partition(b";")[0].strip(b" \t").decode("latin-1").lower()
