"""What an unknown key or option may mean: its name here, or a similar one."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from rlkl.cli.known_names import COUNTERPARTS

_BY_NAME = {
    name: entry
    for topic in COUNTERPARTS.values()
    for entry in topic
    for name in entry.names.split()
}

_OPTIONS = {
    "algo": {
        "ppo ppo2 ppoclip clip": "ppo_clip",
        "pg vpg a2c reinforce policy_gradient actor_critic": "vanilla_pg",
        "natural_gradient natural_pg natural": "npg",
        "ppo_penalty ppo_adaptive": "ppo_kl",
    },
    "policy": {"mlppolicy cnnpolicy multiinputpolicy": "mlp", "mlplstmpolicy recurrent": "lstm"},
    "logger": {"none off": "quiet"},
}
"""Options of groups by the names that they have elsewhere."""


def explain_unknown_key(typed: str, keys: Collection[str], otherwise: str = "") -> str:
    """Return what a message says about a key that does not exist.

    Args:
        typed: such as `algo.lr`.
        keys: that exist.
        otherwise: the end of the message if no key is known or similar.
    """
    return counterpart(typed, keys) or (
        f"there is no key {typed!r}{similar_keys(typed, keys) or otherwise}"
    )


def counterpart(typed: str, keys: Collection[str]) -> str:
    """Return `here it is KEY` for a name from another library, or an empty string.

    A key typed with a wrong first part, such as `algo.gamma`, is answered too. Keys with the first
    part that was typed are preferred.
    """
    part, _, name = typed.replace("-", "_").rpartition(".")
    entry = _BY_NAME.get(name.lower())
    if entry and not entry.keys:
        return f"rlkl has no such key: {entry.remark}"
    found = [key for key in entry.keys.split() if key in keys] if entry else []
    remark = f", {entry.remark}" if entry and entry.remark and found else ""
    found = found or sorted(key for key in keys if key.rpartition(".")[2] == name)
    found = _within(part, found) or found
    return f"here it is {_listed(found)}{remark}" if found else ""


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def similar_keys(typed: str, keys: Collection[str]) -> str:
    """Return ` (did you mean ...?)` with keys that look like a key, or an empty string."""
    part, _, name = typed.rpartition(".")
    return _did_you_mean(_alike(name, _within(part, keys)) or _alike(name, keys))


def _did_you_mean(words: list[str]) -> str:
    return f" (did you mean {' or '.join(words)}?)" if words else ""


def _within(part: str, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if not part or key.startswith(f"{part}.")]


def _alike(name: str, keys: Iterable[str]) -> list[str]:
    """Return the keys whose last parts look like a name, the most similar first."""
    lasts: dict[str, list[str]] = {}
    for key in sorted(keys):
        lasts.setdefault(key.rpartition(".")[2].lower(), []).append(key)
    close = difflib.get_close_matches(name.lower(), lasts, n=3, cutoff=0.6)
    return [key for last in close for key in lasts[last]][:3]


def suggest_option(group: str, typed: str, options: Collection[str], ids: Mapping[str, str]) -> str:
    """Return ` (did you mean ...?)` for an option that a group does not have, or an empty string.

    Args:
        group: such as `algo`.
        typed: the option.
        options: that exist.
        ids: the id of the environment of each option of the group `env`.
    """
    known = {
        name: option for names, option in _OPTIONS.get(group, {}).items() for name in names.split()
    }
    found = known.get(typed.lower().replace("-", "_"))
    if found in options:
        return f" (did you mean {found}?)"
    if group == "env" and (re.search(r"-v\d+$", typed) or ":" in typed or typed in ids.values()):
        stem = _plain(typed)
        same = [f"env={name}, or " for name, env_id in ids.items() if _plain(env_id) == stem]
        return f" (did you mean {''.join(same[:1])}env.id={typed}?)"
    by_lower_case = {name.lower(): name for name in options}
    word = typed.lower()
    close = [word] if word in by_lower_case else difflib.get_close_matches(word, by_lower_case, 2)
    return _did_you_mean([by_lower_case[name] for name in close])


def _plain(env_id: str) -> str:
    """Return an id without namespace and version, in lower case."""
    return re.sub(r"-v\d+$", "", env_id.rpartition("/")[2]).lower()
