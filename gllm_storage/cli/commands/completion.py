"""``completion``: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from gllm_storage.cli.completion import VARIABLE
from gllm_storage.cli.options import debug_option
from gllm_storage.cli.output import PROGRAM, stream_errors

# Bash splits words at ":" and "=". The script joins the pieces again, and returns to bash only the part of each completion
# after the last separator. It also adds local files itself, because bash adds them only if there are no other completions,
# and adds no space after "s3://".
_BASH = """
%(complete_func)s() {
    local IFS=$'\\n' rest=${COMP_LINE:0:COMP_POINT} index word type value name
    local words=() plain=() files=""
    COMPREPLY=()
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if ((index == 0)) || [[ $rest == [[:blank:]]* ]]; then
            rest=${rest#"${rest%%%%[![:blank:]]*}"}
            words+=("")
        fi
        ((index == COMP_CWORD)) && word=$rest
        words[${#words[@]}-1]+=$word
        rest=${rest#"$word"}
    done
    local last=$((${#words[@]} - 1))
    local current=${words[last]} done=""
    [[ $COMP_WORDBREAKS == *:* && $current == *:* ]] && done=${current%%"${current##*:}"}
    [[ $COMP_WORDBREAKS == *=* && ${current#"$done"} == *=* ]] && done=${current%%"${current##*=}"}

    while IFS=, read -r type value; do
        case $type in
            plain) plain+=("$value") ;;
            dir | file) files=$type ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$last %(complete_var)s=bash_complete "$1")

    if [[ $files && ${#plain[@]} == 0 ]]; then
        compopt -o default
        return 0
    fi
    if [[ $files ]]; then
        while IFS= read -r name; do
            [[ -d $name ]] && name+=/
            printf -v name %%q "$name"
            plain+=("$name")
        done < <(compgen -f -- "$current")
    fi
    for value in "${plain[@]}"; do
        [[ $value == *:// || $value == */ || $value == *= ]] && compopt -o nospace
        COMPREPLY+=("${value#"$done"}")
    done
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _BASH


_SHELLS = {"bash": _Bash, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@debug_option
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    Activate it as in: eval "$(gllm-storage completion bash)".
    """
    root = click.get_current_context().find_root().command
    with stream_errors():
        click.echo(_SHELLS[shell](root, {}, PROGRAM, VARIABLE).source())
