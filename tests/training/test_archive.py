"""Checkpoints of strangers: read as data, nothing of them run, no size taken on trust."""

import io
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rlkl
from rlkl.models.policy_description import check_described
from rlkl.training.archive import read_archive
from rlkl.training.checkpoint import as_bytes, load_checkpoint

SHARED = torch.arange(12.0)
STATE: dict[str, Any] = {
    "numbers": [1, -3, 2**31, -(2**40), 2**127 + 5, 1.5, float("inf"), True, None],
    "texts": ["", "ü✓", "x" * 300, b"\x00\xff", 1 + 2j],
    "containers": {"list": [[], {}, ()], 3: (1, 2, 3, 4), "ordered": OrderedDict(a=1)},
    "module": nn.Linear(3, 2).state_dict(),
    "views": [SHARED[2:8].view(2, 3), SHARED.view(3, 4).t(), SHARED[:0], torch.tensor(2.0)],
    "learned": torch.ones(2, requires_grad=True),
    "kinds": [
        torch.arange(4).to(kind)
        for kind in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
            torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64,
            torch.bool, torch.complex64, torch.complex128,
        )
    ],
    "generator": torch.Generator().get_state(),
    "numpy": torch.from_numpy(np.random.default_rng(0).bytes(1) and np.eye(2)),
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        equal = torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride()
        return equal and a.requires_grad == b.requires_grad
    if isinstance(a, dict):
        return [*a] == [*b] and all(same(part, b[key]) for key, part in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_data_comes_back_as_torch_reads_it() -> None:
    content = as_bytes(STATE)
    expected = torch.load(io.BytesIO(content), weights_only=True)
    found = read_archive(content)
    assert same(found, expected)
    assert type(found["module"]) is OrderedDict
    assert found["module"]._metadata == expected["module"]._metadata
    assert read_archive(as_bytes({"empty": b""}))["empty"] == b""  # which torch does not read
    # Views of one storage stay views of one.
    found["views"][0].fill_(7)
    assert found["views"][1].sum() == 6 * 7 + 0 + 1 + 8 + 9 + 10 + 11


def rewritten(
    change: Callable[[bytes], bytes] = bytes, compress: int = zipfile.ZIP_STORED
) -> bytes:
    """Return a checkpoint whose pickle is changed, with checksums that fit."""
    before = zipfile.ZipFile(io.BytesIO(as_bytes({"a": torch.zeros(4), "b": [1]})))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compress) as after:
        for name in before.namelist():
            content = before.read(name)
            after.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return made.getvalue()


def of_pickle(pickled: bytes) -> bytes:
    return rewritten(lambda _: pickled)


def doubled(count: int) -> bytes:
    """Return a pickle of lists, each of which holds the one before twice."""
    lists = b"".join(
        b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(count)
    )
    return b"\x80\x02]q\x00" + lists + b"."


def replaced(old: bytes, new: bytes) -> bytes:
    def change(content: bytes) -> bytes:
        assert content.count(old) == 1, pickletools.dis(content)
        return content.replace(old, new)

    return rewritten(change)


def many_times(count: int) -> bytes:
    tensor = torch.zeros(1_000)
    return as_bytes({"a": [tensor] * count})


SIZE = b"K\x04\x85"  # (4,), of the tensor
STRIDE = b"K\x01\x85"
COUNT = b"X\x03\x00\x00\x00cpuq\x07K\x04"  # of the storage
HUGE = b"J" + struct.pack("<i", 2**31 - 1)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "compressed": (rewritten(compress=zipfile.ZIP_DEFLATED), "in it is compressed"),
    "a pickle of zeros": (of_pickle(b"\x00" * 100), "instruction that data does not need"),
    "a call": (of_pickle(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."), "os.system"),
    "a call of what is allowed": (
        of_pickle(b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R."),
        "takes 0 positional arguments",
    ),
    "another instruction": (of_pickle(b"\x80\x02}(i__main__\nX\n."), "does not need"),
    "a buffer as large as declared": (
        of_pickle(b"\x80\x05\x96" + struct.pack("<Q", 2**44) + b"."),
        "does not need",
    ),
    "a number as large as declared": (
        of_pickle(b"\x80\x02\x8b" + struct.pack("<i", 2**30) + b"."),
        "does not need",
    ),
    "a large memo": (
        of_pickle(b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"."),
        "TypeError|list",
    ),
    "a storage larger than its file": (replaced(COUNT, COUNT[:-2] + HUGE), "another size than"),
    "a tensor larger than its storage": (replaced(SIZE, HUGE + b"\x85"), "more than are stored"),
    "a tensor of one number a billion times": (
        replaced(SIZE + b"q\x09" + STRIDE, HUGE + b"\x85q\x09K\x00\x85"),
        "more than are stored",
    ),
    "a tensor that reaches out": (replaced(STRIDE, b"K\x02\x85"), "more than are stored"),
    "a negative stride": (replaced(STRIDE, b"J\xff\xff\xff\xff\x85"), "no valid shape"),
    "references that multiply": (
        of_pickle(doubled(60)),
        "its references expand to too many objects",
    ),
    "a list in itself": (of_pickle(b"\x80\x02]q\x00h\x00a."), "contains itself"),
    "very deep": (
        of_pickle(b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."),
        "nested more than 200",
    ),
    "one large tensor many times": (many_times(100), "its references expand to too many objects"),
    "attributes of a function": (
        of_pickle(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b."),
        "attributes of something other",
    ),
    "attributes that hide a method": (
        of_pickle(b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb."),
        "attributes of something other",
    ),
    "no pickle": (b"PK\x05\x06" + b"\x00" * 18, "no data.pkl"),
    "many files": (b"PK\x01\x02" * 100_001, "more than 100,000 files"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_checkpoints_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, says = HOSTILE[kind]
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(
        rlkl.ConfigError, match=r"last\.pt is not a checkpoint that can be read"
    ) as e:
        load_checkpoint(path)
    reasons = f"{e.value} {e.value.__cause__}"
    assert "\n" not in str(e.value)
    assert any(words in reasons for words in says.split("|")), reasons


def test_files_that_overlap_are_refused() -> None:
    whole = as_bytes({"a": torch.zeros(10_000)})
    written = io.BytesIO()  # by Python, whose directory is where the end says
    before = zipfile.ZipFile(io.BytesIO(whole))
    with zipfile.ZipFile(written, "w") as after:
        for name in before.namelist():
            after.writestr(name, before.read(name))
    whole = written.getvalue()
    archive = zipfile.ZipFile(io.BytesIO(whole))
    entry = archive.getinfo("archive/data/0")
    start = archive.start_dir
    directory = whole[start : whole.rindex(b"PK\x05\x06")]
    at = directory.index(b"archive/data/0") - 46
    record = directory[at : at + 46 + len(entry.filename)]
    more = b"".join(record.replace(b"data/0", b"data/" + bytes([65 + i])) for i in range(50))
    count = len(archive.infolist()) + 50
    end = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory + more), start, 0
    )
    assert entry.file_size == 40_000
    content = whole[:start] + directory + more + end
    with pytest.raises(ValueError, match="overlap"):
        read_archive(content)


def test_networks_larger_than_their_weights_are_refused(tmp_path: Path) -> None:
    space = {"box": [3], "dtype": "float32"}
    description: dict[str, Any] = {
        "config": {"actor_hidden_sizes": [8, 8], "critic_hidden_sizes": [8]},
        "observation_space": space,
        "action_space": {"discrete": 2},
    }
    weights = {"actor": OrderedDict(a=torch.zeros(8, 8), b=torch.zeros(8), c=torch.zeros(24))}
    check_described(description, weights, 3)
    for change, words in (
        ({"config": {"actor_hidden_sizes": [10**6, 10**6]}}, "1,000,001,000,000"),
        ({"config": {"memory": "gru", "memory_size": 10**5}}, "10,000,000,000"),
        ({"observation_space": {"box": [10**5, 10**5]}}, "10,000,000,000 numbers"),
        ({"observation_space": {"dict": {"a": {"multi_binary": 2**25}}}}, "33,554,432 numbers"),
        ({"action_space": {"tuple": [{"discrete": 10**12}]}}, "1,000,000,000,000 numbers"),
        ({"action_space": {"multi_discrete": [[60, 60]]}}, "120 weights"),
    ):
        with pytest.raises(ValueError, match=words):
            check_described(description | change, weights, 3)
    with pytest.raises(ValueError, match="8,000 weights"):
        check_described(description, weights, 1000)


def test_threads_of_a_checkpoint_are_bounded(tmp_path: Path) -> None:
    config = rlkl.TrainConfig(
        env=rlkl.EnvConfig("CartPole-v1", 2), rollout_steps=8, total_env_steps=16, eval_episodes=0,
        logger=rlkl.LoggerConfig(tensorboard=False, progress="none"), run_dir=str(tmp_path / "run"),
        algo=rlkl.PPOClipConfig(num_minibatches=1), critic=rlkl.CriticConfig(num_minibatches=1),
    )  # fmt: skip
    rlkl.train(config)
    from made_runs import save_checkpoint

    from rlkl.training.trained_policy import load_run

    path = tmp_path / "run" / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    assert load_run(tmp_path / "run").threads == 1
    for threads in (10**9, 0, 1.5):
        save_checkpoint(path, state | {"config": state["config"] | {"threads": threads}})
        with pytest.raises(rlkl.ConfigError, match=rf"threads={threads}; expected"):
            load_run(tmp_path / "run")
