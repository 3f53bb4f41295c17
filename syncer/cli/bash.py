"""How bash completes: by the line as it is typed, and what is offered is quoted for it.

click's own script expands wildcards in what is offered, inserts an id such as "$(command)" as it
is, so that the line runs it, and completes no word with a colon in it.
"""

from __future__ import annotations

import os
import re

from click.shell_completion import BashComplete, CompletionItem, add_completion_class
from click.shell_completion import split_arg_string as split

#: What bash takes for itself unless a backslash is before it.
_SPECIAL = re.compile(r"[^\w@%+=:,./-]")
#: The words of a line as they are typed, and what is between them.
_WORD = re.compile(r"""\s+|(?:[^\s\\'"]|\\.?|'[^']*'?|"(?:[^"\\]|\\.)*"?)+""", re.DOTALL)
_SCRIPT = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} current=${COMP_WORDS[COMP_CWORD]} type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="$line" COMP_CWORD="$current" %(complete_var)s=bash_complete "$1" \\
        2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Completion in bash.

    COMP_WORDS is the line up to the cursor, COMP_CWORD what bash replaces of its last word: it
    takes a colon for the end of a word.
    """

    source_template = _SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        typed = _last(line)
        return split(line[: len(line) - len(typed)])[1:], "".join(split(typed))

    def format_completion(self, item: CompletionItem) -> str:
        """Return the line for an item; an empty one if it cannot stand where the cursor is."""
        if item.type != "plain":
            return super().format_completion(item)
        typed, current = _last(os.environ["COMP_WORDS"]), os.environ["COMP_CWORD"]
        text = str(item.value)
        if typed.startswith(("'", '"')):
            return "" if _SPECIAL.search(text) else f"plain,{text}"
        text = _SPECIAL.sub(r"\\\g<0>", text)
        if current in (":", "="):
            current = ""
        kept = typed.removesuffix(current)
        return f"plain,{text.removeprefix(kept)}" if text.startswith(kept) else ""


def _last(line: str) -> str:
    words = _WORD.findall(line)
    return words[-1] if words and not words[-1].isspace() else ""


add_completion_class(Bash)
