"""Shell completion: click's, with the schemes of URLs and the keys of settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, CompletionItem, get_completion_class

from gllm_storage.cli.output import PROGRAM, stream_errors
from gllm_storage.cli.settings import _IN_THE_URL
from gllm_storage.registry import CloudStorageRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "_GLLM_STORAGE_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
_SCHEMES = ("s3://", "gs://", "az://", "abfs://", "file:///")
# Bash ends a word at each ":" and "=": the words are put together again, and of what is found bash gets what follows the
# last of them. It would look for files only if there were no schemes, and put a space after "s3://".
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


def complete_url(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Schemes, and local files. Stores are not asked: a key press should cost no request."""
    schemes = [CompletionItem(scheme) for scheme in _SCHEMES if scheme.startswith(incomplete)]
    return [*schemes, CompletionItem(incomplete, type="file")]


def complete_setting(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of all providers."""
    keys = {f"{key}=" for key in _known_keys() if key.startswith(incomplete)}
    return [CompletionItem(key) for key in sorted(keys)]


def print_script(command: click.Command, shell: str) -> None:
    """Print what a shell has to be told."""
    found = _Bash if shell == "bash" else get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell!r}")
    with stream_errors():
        click.echo(found(command, {}, PROGRAM, VARIABLE).source())


class _Bash(BashComplete):
    source_template = _BASH


def _known_keys() -> set[str]:
    classes = [CloudStorageRegistry.client_class(name) for name in ("s3", "gcs", "azure", "file", "memory")]
    keys: Callable[[type], tuple[str, ...]] = lambda each: getattr(each, "config_keys", tuple)()  # noqa: E731 - typed
    return {key for each in classes for key in keys(each)} - _IN_THE_URL
