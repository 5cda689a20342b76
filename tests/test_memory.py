"""The memory estimate: tensors that are counted, what data decides, real steps beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers import ops
from g3d.renderers.base import RenderSettings
from g3d.trainer.config import preset_config
from g3d.trainer.ema import averaged_copy
from g3d.trainer.loop import Session
from g3d.trainer.memory import estimate
from g3d.trainer.tracing import Assumptions, tracing
from g3d.trainer.workers import Worker
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
NOTHING = Assumptions(frozenset())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "procedural-chair"
    settings = RenderSettings(size=64, supersample=1)
    config = PrepareConfig(
        source="procedural", category="chair", limit=10, views=2, workers=0, render=settings
    )
    prepare(config, out)
    return out


def test_storages_are_counted_once_and_as_long_as_they_live():
    with tracing(NOTHING) as tracer:
        a = torch.zeros(1000, device="meta")
        assert tracer.alive == 4000
        view = a[10:].reshape(-1, 2)
        a.mul_(2)
        assert tracer.alive == 4000
        b = a + 1
        assert (tracer.alive, tracer.peak) == (8000, 8000)
        del a
        assert tracer.alive == 8000  # the view keeps it
        del view
        assert (tracer.alive, tracer.peak) == (4000, 8000)
        tracer.restart()
        assert tracer.peak == 4000
        del b
    assert tracer.alive == 0
    torch.zeros(5, device="meta")
    assert tracer.alive == 0


def test_the_graph_of_a_backward_pass_is_counted():
    with tracing(NOTHING) as tracer:
        weight = torch.zeros(256, 256, device="meta", requires_grad=True)
        x = torch.zeros(64, 256, device="meta")
        kept = tracer.alive
        y = torch.relu(x @ weight)
        assert tracer.alive == kept + 64 * 256 * 4  # relu keeps its output, not its input
        loss = y.sum()
        del y
        tracer.restart()
        loss.backward()
        assert tracer.alive >= kept + 256 * 256 * 4  # the gradient
        assert tracer.flops == 2 * 64 * 256 * 256  # that of the weight; x needs none


@given(
    rows=st.integers(1, 6), pixels=st.integers(16, 4000), coverage=st.floats(0.01, 1.0),
    surface=st.floats(0.1, 12.0),
)  # fmt: skip
def test_what_data_decides_is_assumed(rows, pixels, coverage, surface):
    assumed = Assumptions(frozenset({rows * pixels}), coverage, surface)
    image = torch.zeros(rows, pixels, dtype=torch.bool, device="meta")
    assert coverage * rows * pixels <= assumed.true_elements(image) <= rows * pixels
    grid = torch.zeros(rows, 2 * pixels + 1, dtype=torch.bool, device="meta")
    found = assumed.true_elements(grid)
    assert found <= grid.numel()
    assert found % rows == 0
    with tracing(assumed):
        assert torch.nonzero(image).shape == (assumed.true_elements(image), 2)
        assert not bool(image.any())


def test_bfloat16_halves_what_autocast_casts():
    def peak(enabled):
        with tracing(NOTHING) as tracer:
            weight = torch.zeros(64, 64, 3, 3, device="meta", requires_grad=True)
            x = torch.zeros(8, 64, 32, 32, device="meta")
            with torch.autocast("meta", torch.bfloat16, enabled=enabled):
                for _ in range(6):
                    x = torch.relu(torch.nn.functional.conv2d(x, weight, padding=1))
            return tracer.peak

    original = torch.autocast
    assert 0.4 < peak(True) / peak(False) < 0.7
    assert torch.autocast is original


def test_the_assumed_surface_is_as_ragged_as_an_untrained_one(dataset, tmp_path):
    """Crossed edges and tetrahedra of a fresh generator, beside what the tracer takes."""
    session = Session(Worker(), preset_config("cpu", run={"threads": 1}), dataset, tmp_path)
    generator = session.nets["generator"]
    codes = generator.map(*torch.randn(2, 4, generator.config.network.z_dim).unbind(0))
    sdf = generator.field(generator.planes(codes), codes).sdf
    marching, inside = generator.surface.extractor, sdf > 0
    crossed = inside[:, marching.edges[:, 0]] != inside[:, marching.edges[:, 1]]
    corners = inside[:, marching.tets.long()].sum(dim=-1)
    mixed = (corners > 0) & (corners < 4)
    for mask in (crossed, mixed):
        real, assumed = int(mask.sum()), NOTHING.true_elements(mask)
        assert 1.0 <= assumed / real <= 3.0


def test_shapes_backend_agrees_with_the_real_one():
    pos = torch.tensor([[-1.0, -1, 0, 1], [1, -1, 0, 1], [0, 1, 0, 1]], requires_grad=True)
    tri = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    ranges = torch.tensor([[0, 1]], dtype=torch.int32)

    def run(device):
        p = pos.detach().to(device).requires_grad_()
        t = tri.to(device)
        rast, db = ops.rasterize(p, t, (8, 8), ranges.to(device))
        out, _ = ops.interpolate(p[:, :3], rast, t)
        soft = ops.antialias(out, rast, p, t)
        soft.sum().backward()
        return [x.shape for x in (rast, db, out, soft, p.grad)]

    with tracing(NOTHING):
        traced = run("meta")
    assert traced == run("cpu")


def test_figures_of_the_parts_are_those_of_the_real_networks(dataset, tmp_path):
    config = preset_config("cpu", run={"threads": 1})
    session = Session(Worker(), config, dataset, tmp_path)
    session.step(0, 10)
    found = estimate(config, views=len(session.pool.rgba))
    for name, net in session.nets.items():
        assert found.weights[name] == sum(p.numel() for p in net.parameters())
    assert found.gradients == found.parameters == 4 * sum(found.weights.values())
    assert found.data == session.pool.rgba.numel()
    state = [p.optimizer.state.values() for p in session.phases if p.name in {"D", "G"}]
    sizes = [x.nbytes for one in state for s in one for x in s.values() if torch.is_tensor(x)]
    assert found.optimizer == sum(sizes)
    average = averaged_copy(session.nets["generator"])
    tensors = [*average.parameters(), *average.buffers()]
    assert found.ema >= sum(x.nbytes for x in tensors)
    assert set(found.activations) == {"D", "D_r1", "G"}
    assert found.total == found.as_dict()["total"]
    assert "needs about" in found.line()


def test_a_larger_step_needs_more():
    def total(**run):
        return estimate(preset_config("cpu", run=run)).total

    base = estimate(preset_config("cpu"))
    twice = estimate(preset_config("cpu", run={"batch": 16}))
    ratio = max(twice.activations.values()) / max(base.activations.values())
    assert 1.7 < ratio < 2.1
    assert total(batch=16, workers=2) == total(batch=8)
    assert estimate(preset_config("cpu"), views=1000).total == base.total + 1000 * 4 * 32**2
    plain = estimate(preset_config("gpu-128"))
    half = estimate(preset_config("gpu-128", get3d={"bf16_discriminator": True}))
    assert half.activations["D"] < 0.9 * plain.activations["D"]


MIDDLE = {
    "data": {"size": 64},
    "get3d": {
        "generator": {
            "surface": {"resolution": 24},
            "network": {"synthesis": {"resolution": 64}},
        },
        "discriminator": {"channels": [32, 64, 128, 256, 256]},
        "loss": {"r1_every": 2},
    },
    "run": {"batch": 8},
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("name", ["smoke", "cpu", "middle"])
def test_a_real_step_stays_within_the_estimate(name, dataset, tmp_path):
    """In a process of its own, by the code of the loop; figures that are only noise may be over."""
    config = preset_config("gpu-128", **MIDDLE) if name == "middle" else preset_config(name)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    program = str(ROOT / "benchmarks" / "memory.py")
    done = subprocess.run(
        [sys.executable, program, "--child", str(tmp_path / "config.json"), str(dataset)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    measured = json.loads(done.stdout.splitlines()[-1])
    estimated = estimate(config, views=measured["views"])
    assert measured["bytes"] <= estimated.total
    assert estimated.total - estimated.runtime <= 2 * measured["bytes"] + 16 * 2**20
