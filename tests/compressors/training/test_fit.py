from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compressors.contract import Task
from compressors.errors import DataError, ModelRunError, TrainingError
from compressors.rehydrate import clone
from compressors.training import Epoch, Fit, FitOptions, Setting, fit, predict
from tests.compressors.training.lessons import METRIC, network, problem

QUICK = FitOptions(epochs=12, batch_size=32, learning_rate=0.03, patience=12)


def taught(
    task: Task,
    module: nn.Module | None = None,
    *,
    options: FitOptions = QUICK,
    teacher: nn.Module | None = None,
    setting: Setting | None = None,
) -> tuple[nn.Module, Fit]:
    module = module or network(task)
    done = fit(
        module,
        problem(task),
        problem(task, 200, seed=1),
        task=task,
        metric=METRIC[task],
        options=options,
        teacher=teacher,
        setting=setting,
    )
    return module, done


@pytest.mark.parametrize(
    ("task", "good", "options"),
    [
        (Task.CLASSIFICATION, 0.9, QUICK),
        (Task.REGRESSION, 0.9, QUICK.model_copy(update={"epochs": 40, "learning_rate": 0.2})),
        (Task.RANKING, 0.8, QUICK),
        (Task.RANKING, 0.8, QUICK.model_copy(update={"ranking_loss": "bpr"})),
    ],
    ids=["classification", "regression", "ranking-bce", "ranking-bpr"],
)
def test_fit_learns_each_task(task: Task, good: float, options: FitOptions) -> None:
    options = options.model_copy(update={"patience": 100})
    _, done = taught(task, options=options)
    assert done.before < 0.7
    assert done.after > good
    assert done.ended == "epochs"
    assert len(done.epochs) == options.epochs


def test_fit_leaves_the_weights_of_its_best_epoch_in_evaluation_mode() -> None:
    module, done = taught(Task.CLASSIFICATION)
    selection = problem(Task.CLASSIFICATION, 200, seed=1)
    right = predict(module, selection).argmax(dim=1).numpy() == selection.target
    assert not module.training
    assert right.mean() == pytest.approx(done.after)
    assert done.after == max(epoch.metric for epoch in done.epochs)
    assert done.epochs[done.best - 1].metric == done.after


def test_fit_that_never_gets_better_gives_the_weights_back_as_they_were() -> None:
    good, _ = taught(Task.CLASSIFICATION)
    before = {name: tensor.clone() for name, tensor in good.state_dict().items()}
    _, done = taught(Task.CLASSIFICATION, good, options=FitOptions(epochs=5, learning_rate=1.0, patience=2))
    assert done.best == 0
    assert done.after == done.before
    assert done.ended == "patience"
    assert len(done.epochs) == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in good.state_dict().items())


def test_fit_with_the_same_seed_gives_the_same_weights() -> None:
    one, two, three = _dropping(), _dropping(), _dropping()
    taught(Task.CLASSIFICATION, one, setting=Setting(seed=5))
    torch.manual_seed(99)  # of the caller: it must not matter
    taught(Task.CLASSIFICATION, two, setting=Setting(seed=5))
    taught(Task.CLASSIFICATION, three, setting=Setting(seed=6))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_fit_leaves_the_callers_randomness_alone() -> None:
    module = _dropping()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    taught(Task.CLASSIFICATION, module)
    assert torch.equal(torch.rand(3), expected)


def _dropping() -> nn.Module:
    return nn.Sequential(network(Task.CLASSIFICATION), nn.Dropout(0.2))


def test_fit_calls_back_after_each_step_and_epoch() -> None:
    def clear(module: nn.Module) -> None:
        with torch.no_grad():
            module.get_parameter("0.weight")[3] = 0.0

    seen: list[Epoch] = []
    start = network(Task.CLASSIFICATION)
    clear(start)
    module, done = taught(Task.CLASSIFICATION, start, setting=Setting(after_step=clear, on_epoch=seen.append))
    assert tuple(seen) == done.epochs
    assert done.best > 0
    assert not module.get_parameter("0.weight")[3].any()


def test_fit_adds_the_loss_of_a_hint() -> None:
    calls: list[torch.Size] = []

    def hint(inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        calls.append(inputs[0].shape)
        return torch.zeros(())

    taught(Task.CLASSIFICATION, options=QUICK.model_copy(update={"epochs": 1}), setting=Setting(extra_loss=hint))
    assert calls == [torch.Size((32, 6))] * 20


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.REGRESSION, Task.RANKING])
def test_fit_without_any_label_learns_from_the_teacher(task: Task) -> None:
    teacher, _ = taught(task, options=QUICK.model_copy(update={"epochs": 40, "learning_rate": 0.1, "patience": 100}))
    rows = problem(task)
    unlabelled = replace(rows, target=np.full_like(rows.target, -1 if task is Task.CLASSIFICATION else np.nan))
    student, selection = network(task, seed=1), problem(task, 200, seed=1)
    options = QUICK.model_copy(update={"epochs": 40, "learning_rate": 0.1, "patience": 100})
    before = _distance(student, teacher, rows.rows)
    fit(student, unlabelled, selection, task=task, metric=METRIC[task], options=options, teacher=teacher)
    assert _distance(student, teacher, rows.rows) < 0.2 * before


def _distance(student: nn.Module, teacher: nn.Module, rows: int) -> float:
    features = problem(Task.CLASSIFICATION, rows)
    ours, theirs = (predict(one, features) for one in (student, teacher))
    if ours.shape[1] > 1:
        ours, theirs = ours.softmax(dim=1), theirs.softmax(dim=1)
    return float(((ours - theirs) ** 2).mean())


def test_labels_of_some_rows_are_learnt_from_and_the_others_left_alone() -> None:
    rows = problem(Task.REGRESSION)
    rows.target[::2] = np.nan
    module = network(Task.REGRESSION)
    options = QUICK.model_copy(update={"epochs": 40, "learning_rate": 0.2, "patience": 100})
    done = fit(
        module,
        rows,
        problem(Task.REGRESSION, 200, seed=1),
        task=Task.REGRESSION,
        metric=METRIC[Task.REGRESSION],
        options=options,
    )
    assert done.after > 0.9


def test_too_few_labels_without_a_teacher_are_refused() -> None:
    rows = problem(Task.CLASSIFICATION)
    rows.target[3:] = -1
    with pytest.raises(DataError, match="the training data have 3 labelled rows, and there is no teacher; at least 8"):
        fit(
            network(Task.CLASSIFICATION),
            rows,
            rows,
            task=Task.CLASSIFICATION,
            metric=METRIC[Task.CLASSIFICATION],
            options=QUICK,
        )


def test_loss_that_runs_away_is_an_error_that_names_the_learning_rate() -> None:
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(Task.CLASSIFICATION)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner(x)
            return y * float("nan") if self.training else y

    with pytest.raises(
        TrainingError, match=r"the loss became nan in step 1 of epoch 1: lower learning_rate \(now 0\.03\)"
    ):
        taught(Task.CLASSIFICATION, Explodes())


def test_network_without_weights_is_refused() -> None:
    with pytest.raises(TrainingError, match="no weights that could be trained"):
        taught(Task.CLASSIFICATION, nn.Sequential(nn.ReLU()))


def test_operator_that_can_not_be_trained_is_one_sentence() -> None:
    class Integers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.weight)[:, :3].detach()

    with pytest.raises(ModelRunError, match=r"the network can't be trained \(.*does not require grad"):
        taught(Task.CLASSIFICATION, Integers())


def test_fit_ends_after_the_epoch_that_the_time_runs_out_in() -> None:
    _, done = taught(Task.CLASSIFICATION, options=QUICK.model_copy(update={"time_limit_s": 1e-6}))
    assert done.ended == "time"
    assert len(done.epochs) == 1


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.LogSoftmax(dim=1), nn.Sigmoid()])
def test_outputs_that_are_probabilities_are_learnt_like_logits(last: nn.Module) -> None:
    module = torch.fx.symbolic_trace(nn.Sequential(network(Task.CLASSIFICATION), last))
    _, done = taught(Task.CLASSIFICATION, module)
    assert done.after > 0.9


def test_teacher_is_not_changed() -> None:
    teacher, _ = taught(Task.CLASSIFICATION)
    before = clone(teacher).state_dict()
    taught(Task.CLASSIFICATION, teacher=teacher)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
