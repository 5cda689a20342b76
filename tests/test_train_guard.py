"""What is not finite: steps left out, roll-backs, the end of a run; and gradients cut short."""

import dataclasses
import json
import math
import signal

import pytest
import torch
from g3d.errors import G3DError
from g3d.pipeline.config import PrepareConfig
from g3d.pipeline.prepare import prepare
from g3d.renderers.base import RenderSettings
from g3d.trainer import session as session_module
from g3d.trainer.checkpoint import CHECKPOINT, numbered
from g3d.trainer.config import GuardConfig, preset_config
from g3d.trainer.data import ViewPool, open_data, step_rng
from g3d.trainer.guard import Finding, Guard, RollBack
from g3d.trainer.loop import train
from g3d.trainer.session import Session
from g3d.trainer.signals import Stopped
from g3d.trainer.workers import Worker, cpu_settings

FINDING = Finding("D", "nan", "nan", [], {})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "procedural-chair"
    render = RenderSettings(size=16, supersample=2)
    prepare(
        PrepareConfig(
            source="procedural", category="chair", limit=8, views=4, workers=0, render=render
        ),
        out,
    )
    return out


def weights(run):
    return torch.load(numbered(run, CHECKPOINT)[-1], weights_only=True)


def flat(state):
    return torch.cat(
        [t.float().reshape(-1) for net in state["nets"].values() for t in net.values()]
    )


def fingerprint(batch):
    return float(batch.azimuth.double().sum())


def batches_of(dataset, steps):
    """Fingerprints of what an untroubled run shows at these steps."""
    data, _ = open_data(dataset, "train")
    pool = ViewPool(data, preset_config("smoke").data)
    return {fingerprint(pool.batch(8, step_rng(0, step))) for step in steps}


def spoil(monkeypatch, phase_name, is_bad, hook=None):
    """NaN in a phase's loss and in a running mean wherever ``is_bad(batch, step)``."""
    build = session_module.build_method

    def spoiled(config, context):
        method = build(config, context)
        phases = method.phases

        def wrapped():
            return [wrap(p) if p.name == phase_name else p for p in phases()]

        def wrap(phase):
            def loss(batch, step):
                if hook:
                    hook(step)
                value, terms = phase.loss(batch, step)
                if is_bad(batch, step):
                    method.nets()["generator"].network.mapping_geo.w_avg.fill_(math.nan)
                    value = value * math.nan
                return value, terms

            return dataclasses.replace(phase, loss=loss)

        method.phases = wrapped
        return method

    monkeypatch.setattr(session_module, "build_method", spoiled)


def stats_of(run):
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def test_the_guard_counts_and_decides():
    guard = Guard(GuardConfig(consecutive=3, window=10, share=0.3, rollbacks=1, rate_factor=0.5))
    guard.bad(0, FINDING)
    guard.bad(1, FINDING)
    guard.good()
    assert guard.consecutive == 0
    guard.bad(3, FINDING)  # three of the last ten are not more than 0.3 of them
    guard.bad(11, FINDING)  # and step 0 and 1 are no longer among these
    assert guard.recent == [3, 11]
    guard.good()
    guard.bad(12, FINDING)
    guard.good()
    with pytest.raises(RollBack):
        guard.bad(13 - 1, FINDING)
    guard.roll_back(13, 8)
    assert (guard.rate, guard.rollbacks, guard.recent, guard.skipped) == (0.5, 1, [], 6)
    other = Guard(guard.config)
    other.load(json.loads(json.dumps(guard.state())))
    assert other == guard
    for step in (20, 21):
        other.bad(step, FINDING)
    with pytest.raises(RollBack):
        other.bad(22, FINDING)


def test_a_step_that_is_not_finite_is_left_out(dataset, tmp_path, monkeypatch):
    spoil(monkeypatch, "G", lambda batch, step: step == 7)
    train(preset_config("smoke"), dataset, tmp_path / "run")
    state = weights(tmp_path / "run")
    assert torch.isfinite(flat(state)).all()  # the running mean of w too
    assert state["guard"]["skipped"] == 1
    assert state["guard"]["rollbacks"] == 0
    assert state["guard"]["events"] == [{"event": "skipped", "step": 7, "phase": "G"}]
    lines = stats_of(tmp_path / "run")
    assert [line["guard/skipped"] for line in lines] == [0, pytest.approx(0.2), 0, 0]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert not (tmp_path / "run" / "health.json").exists()


def test_nothing_moves_in_a_phase_that_is_left_out(dataset, tmp_path, monkeypatch):
    spoil(monkeypatch, "D", lambda batch, step: step == 1)
    with cpu_settings(1):
        session = Session(Worker(), preset_config("smoke"), dataset, tmp_path / "run")
        session.step(0, 20)
        nets = [t.clone() for net in session.nets.values() for t in net.state_dict().values()]
        adam = session.phases[0].optimizer.state_dict()["state"][0]["exp_avg_sq"].clone()
        average = [t.clone() for t in session.average.state_dict().values()]
        terms = session.step(1, 20)
        assert terms["guard/skipped"] == 1
        after = [t for net in session.nets.values() for t in net.state_dict().values()]
        assert all(torch.equal(a, b) for a, b in zip(nets, after, strict=True))
        assert all(
            torch.equal(a, b)
            for a, b in zip(average, session.average.state_dict().values(), strict=True)
        )
        assert torch.equal(session.phases[0].optimizer.state_dict()["state"][0]["exp_avg_sq"], adam)
        session.step(2, 20)
        assert not torch.equal(nets[0], next(iter(session.nets["generator"].state_dict().values())))


def test_too_many_roll_back_with_lower_rates_and_other_numbers(dataset, tmp_path, monkeypatch):
    """Bad data at steps 11 to 13; after the roll-back other data is drawn, and the run ends."""
    config = preset_config("smoke", run={"guard": {"consecutive": 3}})
    bad = batches_of(dataset, (11, 12, 13))
    spoil(monkeypatch, "D", lambda batch, step: fingerprint(batch) in bad)
    assert train(config, dataset, tmp_path / "run").nimg == 160
    state = weights(tmp_path / "run")
    guard = state["guard"]
    assert (guard["skipped"], guard["rollbacks"]) == (3, 1)
    assert guard["events"][-1] == {"event": "rolled back", "step": 13, "to_step": 10}
    health = json.loads((tmp_path / "run" / "health.json").read_text())
    assert (health["status"], health["step"]) == ("rolled back", 13)
    assert health["finding"]["phase"] == "D"
    assert health["finding"]["loss"] == "nan"
    assert all(
        name.startswith(("d_rgb.", "d_mask.")) for name in health["finding"]["parameters"][:9]
    )
    assert health["finding"]["terms"]["loss/d"] != "nan"  # a number, as the method saw it
    assert [line["nimg"] for line in stats_of(tmp_path / "run")] == [40, 80, 120, 160]
    # The last step's rate: base x what is left of the schedule (0.1) x 0.5.
    assert state["optimizers"]["G"]["param_groups"][0]["lr"] == pytest.approx(0.005 * 0.1 * 0.5)


def test_a_run_that_was_rolled_back_resumes_bit_for_bit(dataset, tmp_path, monkeypatch):
    config = preset_config("smoke", run={"guard": {"consecutive": 3}})
    bad = batches_of(dataset, (6, 11, 12, 13))
    visits = []

    def stop_after_the_roll_back(step):
        visits.append(step)
        if step == 12 and visits.count(12) == 2 and interrupt:
            signal.raise_signal(signal.SIGTERM)

    spoil(
        monkeypatch,
        "D",
        lambda batch, step: fingerprint(batch) in bad,
        hook=stop_after_the_roll_back,
    )
    interrupt = False
    train(config, dataset, tmp_path / "whole")
    interrupt = True
    visits.clear()
    with pytest.raises(Stopped):
        train(config, dataset, tmp_path / "cut")
    assert weights(tmp_path / "cut")["nimg"] == 13 * 8
    train(config, dataset, tmp_path / "cut")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert torch.equal(flat(a), flat(b))
    assert a["guard"] == b["guard"]
    assert a["guard"]["skipped"] == 4


def test_a_run_that_cannot_be_saved_ends_with_a_report(dataset, tmp_path, monkeypatch):
    """Bad from the third step on, whatever is drawn: before there is a checkpoint."""
    config = preset_config("smoke", run={"guard": {"consecutive": 2, "rollbacks": 2}})
    spoil(monkeypatch, "G", lambda batch, step: step >= 2)
    with pytest.raises(
        G3DError, match=r"diverged: G is not finite at step 3 .* after 2 roll-backs"
    ):
        train(config, dataset, tmp_path / "run")
    health = json.loads((tmp_path / "run" / "health.json").read_text())
    assert (health["status"], health["rollbacks"], health["skipped_steps"]) == ("failed", 2, 6)
    assert any(name.startswith("generator.") for name in health["finding"]["parameters"])
    assert health["learning_rate_factor"] == 0.25
    state = weights(tmp_path / "run")
    assert torch.isfinite(flat(state)).all()
    assert (state["nimg"], state["guard"]["rollbacks"]) == (0, 2)


def test_a_checkpoint_that_leads_to_the_same_end_is_given_up(dataset, tmp_path, monkeypatch):
    """Finite weights, too large to compute with, are in the checkpoint of step 10."""
    spoilt, average = [], Session._average_weights

    def overshoot(session, step):
        average(session, step)
        if step == 9 and not spoilt:
            spoilt.append(step)
            session.nets["d_rgb"].stem.weight.data.fill_(1e30)

    monkeypatch.setattr(Session, "_average_weights", overshoot)
    assert train(preset_config("smoke"), dataset, tmp_path / "run").nimg == 160
    guard = weights(tmp_path / "run")["guard"]
    back = [event["to_step"] for event in guard["events"] if event["event"] == "rolled back"]
    assert back == [10, 5]
    assert guard["skipped"] == 10


def test_weights_that_are_not_finite_are_never_saved(dataset, tmp_path, monkeypatch):
    config = preset_config("smoke", run={"guard": {"rollbacks": 0}})

    def overflow(batch, step):
        if step == 8:
            session.nets["d_rgb"].stem.weight.data[0, 0, 0, 0] = math.inf
        return False

    spoil(monkeypatch, "G", overflow)
    with cpu_settings(1):
        (tmp_path / "run").mkdir()
        session = Session(Worker(), config, dataset, tmp_path / "run")
        with pytest.raises(G3DError, match="diverged"):
            session.run()
    assert torch.isfinite(flat(weights(tmp_path / "run"))).all()


def test_gradients_are_cut_to_length(dataset, tmp_path):
    with cpu_settings(1):
        config = preset_config("smoke", run={"clip": 0.01})
        session = Session(Worker(), config, dataset, tmp_path / "run")
        terms = session.step(0, 20)
        for name, net in (("D_r1", ("d_rgb", "d_mask")), ("G", ("generator",))):
            gradients = [
                p.grad.reshape(-1)
                for n in net
                for p in session.nets[n].parameters()
                if p.grad is not None
            ]
            assert terms[f"grad/{name}"] > 0.01  # as it was
            assert torch.cat(gradients).norm().item() == pytest.approx(0.01, rel=1e-4)
        plain = Session(Worker(), preset_config("smoke"), dataset, tmp_path / "plain")
        same = plain.step(0, 20)
        gradients = [p.grad.reshape(-1) for p in plain.nets["generator"].parameters()]
        assert torch.cat(gradients).norm().item() == pytest.approx(same["grad/G"].item(), rel=1e-5)
