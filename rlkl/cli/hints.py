"""What an unknown key or option may mean: its name here, or a similar one."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

from rlkl.cli.known_names import COUNTERPARTS
from rlkl.utils.validation import nearest

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
        "trulyppo tppo tr_ppo_rb tr_ppo ppo_rb": "truly_ppo",
    },
    "policy": {"mlppolicy cnnpolicy multiinputpolicy": "mlp", "mlplstmpolicy recurrent": "lstm"},
    "logger": {"none off": "quiet"},
}
"""Options of groups by the names that they have elsewhere."""


def explain_unknown_key(typed: str, keys: Collection[str], otherwise: str) -> str:
    """Return what a message says about an unknown key; `otherwise` if none is known or similar."""
    return counterpart(typed, keys) or (
        f"there is no key {typed!r}{similar_keys(typed, keys) or otherwise}"
    )


def counterpart(typed: str, keys: Collection[str]) -> str:
    """Return `here it is KEY` for a name from another library, or an empty string.

    A key with a wrong first part, such as `algo.gamma`, is answered too.
    """
    part, _, name = typed.replace("-", "_").rpartition(".")
    entry = _BY_NAME.get(name.lower())
    if entry and not entry.keys:
        return f"rlkl has no such key: {entry.remark}"
    found = [key for key in entry.keys.split() if key in keys] if entry else []
    remark = f", {entry.remark}" if entry and entry.remark and found else ""
    found = found or sorted(key for key in keys if key.rpartition(".")[2] == name)
    found = _within(part, found) or found
    listed = " and ".join(filter(None, (", ".join(found[:-1]), *found[-1:])))
    return f"here it is {listed}{remark}" if found else ""


def similar_keys(typed: str, keys: Collection[str]) -> str:
    """Return ` (did you mean ...?)` with keys that look like a key, or an empty string."""
    part, _, name = typed.rpartition(".")
    alike = _alike(name, _within(part, keys)) or _alike(name, keys)
    return f" (did you mean {' or '.join(alike)}?)" if alike else ""


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
    """Return ` (did you mean ...?)` for an unknown option of a group, or an empty string."""
    name = typed.lower().replace("-", "_")
    for names, option in _OPTIONS.get(group, {}).items():
        if name in names.split() and option in options:
            return f" (did you mean {option}?)"
    if group == "env" and (re.search(r"-v\d+$", typed) or ":" in typed or typed in ids.values()):
        stem = _plain(typed)
        same = [f"env={name}, or " for name, env_id in ids.items() if _plain(env_id) == stem]
        return f" (did you mean {''.join(same[:1])}env.id={typed}?)"
    same = [option for option in options if option.lower() == typed.lower()]
    return nearest(typed, same or options, most=2)


def _plain(env_id: str) -> str:
    """Return an id without namespace and version, in lower case."""
    return re.sub(r"-v\d+$", "", env_id.rpartition("/")[2]).lower()
