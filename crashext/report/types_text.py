"""What objects may be, and an object's members by name, as lines of text."""

from __future__ import annotations

from crashext.analysis.results.evidence import TypeCandidate
from crashext.analysis.results.reports import Group, MemberValue
from crashext.analysis.types.candidates import inconclusive, rivals
from crashext.report.safe import safe
from crashext.wording import some_of

_SHOWN = 3
_ZEROS = 3
_NAME = 40


def type_lines(group: Group, verbose: bool) -> list[str]:
    """`candidate_lines` as they stand in a group."""
    first, *rest = candidate_lines(group.types, verbose) or [""]
    return [f"    - {first}", *(f"      {text}" for text in rest)] if first else []


def candidate_lines(types: tuple[TypeCandidate, ...], verbose: bool) -> list[str]:
    """One line that names the best candidates or says that they cannot be told apart; with
    `verbose` also what speaks for and against each. Empty where no type was found.
    """
    if not types:
        return []
    best = types[0]
    equal = rivals(types)
    if inconclusive(best):
        line = f"type: cannot tell; the least unlikely is {_name(best)} ({_score(best)})"
    elif len(equal) > 1:
        named = some_of([f"{_name(t)} ({t.score:.2f})" for t in equal], _SHOWN)
        line = f"type: cannot tell between {named}: they explain the words about equally well"
    else:
        line = f"may be {_name(best)} ({_score(best)})"  # well ahead of the others, which -v shows
    lines = [line]
    if verbose:
        for candidate in types[:_SHOWN]:
            lines.append(f"{_name(candidate)}, score {candidate.score:.2f}:")
            lines += [f"  agrees: {safe(text)}" for text in candidate.agreements]
            lines += [f"  disagrees: {safe(text)}" for text in candidate.disagreements]
    return lines


def member_lines(members: tuple[MemberValue, ...], verbose: bool) -> list[str]:
    """``+0x018 d_parent = ffff888003a4b1c0  [dentry+0x0]``; long runs of zeros as one line."""
    width = min(max(len(m.name) for m in members), _NAME)
    lines: list[str] = []
    zeros = 0
    for at, member in enumerate(members):
        zero = member.value == 0 or member.meaning == "all 0"
        zeros = zeros + 1 if zero else 0
        following = members[at + 1] if at + 1 < len(members) else None
        lines.append(_member(member, width))
        ends = following is None or not (following.value == 0 or following.meaning == "all 0")
        if zeros > _ZEROS and ends and not verbose:
            lines[-zeros:] = [
                f"      +{members[at - zeros + 1].offset:#05x}  {zeros} members are 0"
            ]
    return lines


def _member(member: MemberValue, width: int) -> str:
    value = "" if member.value is None else f"{member.value:x}"
    text = f"      +{member.offset:#05x}  {safe(member.name):{width}}  {value:>16}  "
    return (text + safe(member.meaning)).rstrip()


def _name(candidate: TypeCandidate) -> str:
    return safe(candidate.name) + (f" [{safe(candidate.module)}]" if candidate.module else "")


def _score(candidate: TypeCandidate) -> str:
    words = "word agrees" if candidate.agree == 1 else "words agree"
    against = "disagrees" if candidate.disagree == 1 else "disagree"
    return f"score {candidate.score:.2f}; {candidate.agree} {words}, {candidate.disagree} {against}"
