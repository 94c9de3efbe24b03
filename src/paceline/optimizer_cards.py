"""What is known of each built-in optimizer without importing torch: hyperparameters, ranges, what tuning explores.

Hyperparameters have the names and the defaults of the library that has the optimizer, unless a comment says why not.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from paceline.cards import Choices, Hyperparameters, Search

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Inner = Annotated[float, Field(gt=0, lt=1)]


class OptimizerTable(Hyperparameters):
    """Base of the tables below, and what strategies must know of an optimizer.

    ``reduces``: it adds up over ranks itself, so that strategies which do so are not for it. ``evaluates_again``: it
    evaluates the objective several times in an update and compares what comes back. ``elementwise``: each element of a
    parameter is updated from its own gradient and state alone, so that a parameter may be cut into shards.

    For its card: ``update_rule``, of parameters w with gradient g in update t; ``memory`` that it keeps, beside
    parameters and gradients; ``source``, what it was published in.
    """

    reduces: ClassVar[bool] = False
    evaluates_again: ClassVar[bool] = False
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[str]
    memory: ClassVar[str]
    communication: ClassVar[str] = "that of its strategy, for one evaluation an update"
    source: ClassVar[str]


class Sgd(OptimizerTable):
    """Stochastic gradient descent, with momentum where it is above 0 (Robbins and Monro 1951; Polyak 1964)."""

    update_rule = "v = momentum * v + (1 - dampening) * (g + weight_decay * w); w = w - lr * v"
    memory = "1 float a parameter; none where momentum is 0"
    source = (
        "Robbins and Monro 1951, A Stochastic Approximation Method; "
        "Polyak 1964, Some methods of speeding up the convergence of iteration methods"
    )

    # torch has momentum 0 and lr 1e-3
    lr: Annotated[Positive, Search(low=1e-3, high=1.0, log=True)] = 0.05
    momentum: Annotated[Share, Search(low=0.0, high=0.98)] = 0.9
    dampening: Share = 0.0
    weight_decay: NotNegative = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Sgd:
        if self.nesterov and (self.momentum == 0 or self.dampening > 0):
            raise PydanticCustomError("nesterov", "nesterov needs a momentum above 0 and a dampening of 0")
        return self


class SgdNesterov(OptimizerTable):
    """Stochastic gradient descent with Nesterov's momentum (Nesterov 1983; Sutskever et al. 2013)."""

    update_rule = "d = g + weight_decay * w; v = momentum * v + d; w = w - lr * (d + momentum * v)"
    memory = "1 float a parameter"
    source = (
        "Nesterov 1983, A method for solving the convex programming problem with convergence rate O(1/k^2); "
        "Sutskever et al. 2013, On the importance of initialization and momentum in deep learning"
    )

    lr: Annotated[Positive, Search(low=1e-3, high=1.0, log=True)] = 0.05
    momentum: Annotated[Inner, Search(low=0.5, high=0.98)] = 0.9
    weight_decay: NotNegative = 0.0


class Adam(OptimizerTable):
    """Adam: steps scaled by running moments of the gradient (Kingma and Ba 2015, algorithm 1)."""

    update_rule = (
        "m = beta1 * m + (1 - beta1) * d, v = beta2 * v + (1 - beta2) * d^2, of d = g + weight_decay * w\n"
        "w = w - lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)"
    )
    memory = "2 floats a parameter; 3 with amsgrad"
    source = "Kingma and Ba 2015, Adam: A Method for Stochastic Optimization, arXiv:1412.6980"

    lr: Annotated[Positive, Search(low=1e-4, high=3e-2, log=True)] = 1e-3
    beta1: Annotated[Share, Search(low=0.8, high=0.99)] = 0.9
    beta2: Share = 0.999
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0
    amsgrad: bool = False


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019, algorithm 2)."""

    update_rule = (
        "m = beta1 * m + (1 - beta1) * g, v = beta2 * v + (1 - beta2) * g^2\n"
        "w = w - lr * (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * w)"
    )
    source = "Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101"

    weight_decay: Annotated[NotNegative, Search(low=1e-4, high=1e-1, log=True)] = 0.01


class Nadam(OptimizerTable):
    """Adam with Nesterov's momentum, which rises over updates (Dozat 2016, algorithm 2)."""

    update_rule = (
        "m and v as Adam's; mu_t = beta1 * (1 - 0.96^(t * momentum_decay) / 2)\n"
        "w = w - lr * (mu_(t+1) * m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) * g / (1 - mu_1 ... mu_t))"
        " / (sqrt(v / (1 - beta2^t)) + eps)"
    )
    memory = "2 floats a parameter"
    source = "Dozat 2016, Incorporating Nesterov Momentum into Adam"

    lr: Annotated[Positive, Search(low=1e-4, high=3e-2, log=True)] = 2e-3
    beta1: Annotated[Share, Search(low=0.8, high=0.99)] = 0.9
    beta2: Share = 0.999
    eps: Positive = 1e-8
    momentum_decay: NotNegative = 4e-3
    weight_decay: NotNegative = 0.0
    decoupled_weight_decay: bool = False


class Rmsprop(OptimizerTable):
    """RMSprop: steps scaled by the running mean square of the gradient (Tieleman and Hinton 2012)."""

    update_rule = (
        "v = alpha * v + (1 - alpha) * d^2 of d = g + weight_decay * w, less the running mean's square if centered\n"
        "b = momentum * b + d / (sqrt(v) + eps); w = w - lr * b"
    )
    memory = "1 float a parameter; 1 more with momentum, 1 more if centered"
    source = (
        "Tieleman and Hinton 2012, Neural Networks for Machine Learning, lecture 6.5; "
        "centered: Graves 2013, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850"
    )

    # the lecture has alpha = 0.9
    lr: Annotated[Positive, Search(low=1e-4, high=3e-2, log=True)] = 1e-2
    alpha: Annotated[Share, Search(low=0.9, high=0.999)] = 0.99
    eps: Positive = 1e-8
    momentum: Share = 0.0
    weight_decay: NotNegative = 0.0
    centered: bool = False


class Adagrad(OptimizerTable):
    """Adagrad: steps scaled by the sum of all squared gradients (Duchi, Hazan and Singer 2011, figure 1)."""

    update_rule = "s = s + d^2 of d = g + weight_decay * w; w = w - lr / (1 + (t - 1) * lr_decay) * d / (sqrt(s) + eps)"
    memory = "1 float a parameter"
    source = (
        "Duchi, Hazan and Singer 2011, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization"
    )

    lr: Annotated[Positive, Search(low=1e-3, high=1.0, log=True)] = 1e-2
    lr_decay: NotNegative = 0.0
    initial_accumulator_value: NotNegative = 0.0
    eps: Positive = 1e-10
    weight_decay: NotNegative = 0.0


class Adafactor(OptimizerTable):
    """Adafactor: Adam's second moment from sums over rows and columns (Shazeer and Stern 2018, algorithms 4 and 5)."""

    elementwise: ClassVar[bool] = False
    update_rule = (
        "V = row means * column means / mean, running with weight t^beta2_decay; u = g / sqrt(V)\n"
        "w = w - max(eps2, rms(w)) * min(lr, 1 / sqrt(t)) * u / max(1, rms(u) / d) - lr * weight_decay * w"
    )
    memory = "rows + columns floats a weight (of its last two dimensions); 1 float a parameter of a vector"
    source = "Shazeer and Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, arXiv:1804.04235"

    lr: Annotated[Positive, Search(low=1e-3, high=1e-1, log=True)] = 1e-2
    beta2_decay: Annotated[float, Field(ge=-1, le=0)] = -0.8
    # of the root of the second moment; "auto": the resolution of the parameters' numbers. The paper has 1e-30 inside
    eps1: Positive | Literal["auto"] = "auto"
    eps2: Positive = 1e-3
    d: Annotated[float, Field(ge=1)] = 1.0
    weight_decay: NotNegative = 0.0


class Lion(OptimizerTable):
    """Lion: the sign of an interpolated momentum (Chen et al. 2023, algorithm 2)."""

    update_rule = "w = w - lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w); m = beta2 * m + (1 - beta2) * g"
    memory = "1 float a parameter"
    source = "Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675"

    lr: Annotated[Positive, Search(low=1e-5, high=3e-3, log=True)] = 1e-4
    beta1: Annotated[Share, Search(low=0.8, high=0.99)] = 0.9
    beta2: Share = 0.99
    weight_decay: NotNegative = 0.0


class Lars(OptimizerTable):
    """LARS: SGD whose rate follows each layer's norm (You, Gitman and Ginsburg 2017, algorithm 1)."""

    elementwise: ClassVar[bool] = False
    update_rule = (
        "d = trust_coefficient * |w| / (|g| + weight_decay * |w|) * (g + weight_decay * w), norms of each weight; "
        "d = g for vectors\nv = momentum * v + d; w = w - lr * v, with nesterov w = w - lr * (d + momentum * v)"
    )
    memory = "1 float a parameter; none where momentum is 0"
    source = "You, Gitman and Ginsburg 2017, Large Batch Training of Convolutional Networks, arXiv:1708.03888"

    # lr multiplies the trust coefficient, a thousandth: the library's lr = 1e-3 would not move. Decay as in the paper
    lr: Annotated[Positive, Search(low=0.1, high=10.0, log=True)] = 1.0
    momentum: Annotated[Share, Search(low=0.0, high=0.98)] = 0.9
    trust_coefficient: Positive = 1e-3
    weight_decay: NotNegative = 5e-4
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Lars:
        if self.nesterov and self.momentum == 0:
            raise PydanticCustomError("nesterov", "nesterov needs a momentum above 0")
        return self


class Lamb(OptimizerTable):
    """LAMB: Adam's step, scaled to each layer's norm (You et al. 2020, algorithm 2).

    Departs: moments are not corrected for their start, which makes no difference without weight decay.
    """

    elementwise: ClassVar[bool] = False
    update_rule = (
        "m and v as AdamW's; r = m / (sqrt(v) + eps) + weight_decay * w\n"
        "w = w - lr * min(|w|, 10) / |r| * r, norms of each tensor; the factor is 1 where one of them is 0"
    )
    memory = "2 floats a parameter"
    source = (
        "You et al. 2020, Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, arXiv:1904.00962"
    )

    lr: Annotated[Positive, Search(low=1e-4, high=1e-1, log=True)] = 1e-3
    beta1: Annotated[Share, Search(low=0.8, high=0.99)] = 0.9
    beta2: Share = 0.999
    eps: Positive = 1e-6
    weight_decay: NotNegative = 0.01  # of the paper's BERT; the library has 0


class Muon(OptimizerTable):
    """Muon: momentum made orthogonal, for weights of hidden layers; AdamW for the rest (Jordan et al. 2024).

    Hidden weights have two or more dimensions, and are neither the first nor the last such of the model, nor an
    embedding's; a model of one layer has none. Those of convolutions are taken as matrices of (out, in * height *
    width). Departs: momentum is a running mean, which differs by a factor that orthogonalization takes out.
    """

    elementwise: ClassVar[bool] = False
    update_rule = (
        "m = momentum * m + (1 - momentum) * g; O = nearly the orthogonal factor of (1 - momentum) * g + momentum * m, "
        "by ns_steps of Newton and Schulz\n"
        "W = W - lr * (sqrt(max(1, rows / columns)) * O + weight_decay * W); elsewhere AdamW"
    )
    memory = "1 float a parameter of hidden weights, 2 elsewhere"
    source = (
        "Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks; "
        "match_rms_adamw: Liu et al. 2025, Muon is Scalable for LLM Training, arXiv:2502.16982"
    )

    # of the authors' code; torch has lr = 1e-3 and weight_decay = 0.1
    lr: Annotated[Positive, Search(low=1e-3, high=1e-1, log=True)] = 0.02
    momentum: Annotated[Share, Search(low=0.8, high=0.98)] = 0.95
    nesterov: bool = True
    weight_decay: NotNegative = 0.0
    ns_steps: Annotated[int, Field(ge=1, lt=100)] = 5
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    adamw_lr: Annotated[Positive, Search(low=1e-4, high=3e-2, log=True)] = 3e-4
    adamw_beta1: Share = 0.9
    adamw_beta2: Share = 0.95
    adamw_eps: Positive = 1e-10
    adamw_weight_decay: NotNegative = 0.0


class Shampoo(OptimizerTable):
    """Shampoo: a preconditioner for each dimension of a weight (Gupta, Koren and Singer 2018, algorithm 2).

    Departs: momentum is left out, for the library's is not the paper's. Roots are taken anew every
    ``preconditioning_compute_steps``; until the first time parameters stay as they are.
    """

    elementwise: ClassVar[bool] = False
    update_rule = (
        "L = L + G G', R = R + G' G, from matrix_eps * I; W = W - lr * L^(-1/4) G R^(-1/4)\n"
        "for k dimensions k such factors to the power of -1 / (2 k)"
    )
    memory = "2 * (rows^2 + columns^2) floats a weight; 2 * length^2 a vector"
    source = "Gupta, Koren and Singer 2018, Shampoo: Preconditioned Stochastic Tensor Optimization, arXiv:1802.09568"

    # the library's lr = 1e-3 hardly moves. Roots of each update's own cost a decomposition of every side (0.3 s for one
    # of 784), but older ones diverge on digits, at once for lr = 0.05
    lr: Annotated[Positive, Search(low=1e-2, high=1.0, log=True)] = 0.1
    preconditioning_compute_steps: Annotated[int, Field(ge=1)] = 1
    matrix_eps: Positive = 1e-6
    weight_decay: NotNegative = 0.0


class Soap(OptimizerTable):
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, algorithm 3).

    Departs: the first update only begins the preconditioners, as in the authors' code.
    """

    elementwise: ClassVar[bool] = False
    update_rule = (
        "L, R: running means of G G' and G' G, of eigenvectors Q_L, Q_R, renewed every precondition_frequency updates\n"
        "W = W - lr * (Q_L A Q_R' + weight_decay * W), A = Adam's step for the gradient Q_L' G Q_R"
    )
    memory = "2 floats a parameter, and 2 * (rows^2 + columns^2) a weight; sides above max_precondition_dim have none"
    source = "Vyas et al. 2024, SOAP: Improving and Stabilizing Shampoo using Adam, arXiv:2409.11321"

    lr: Annotated[Positive, Search(low=3e-4, high=3e-2, log=True)] = 3e-3
    beta1: Annotated[Share, Search(low=0.8, high=0.99)] = 0.95
    beta2: Share = 0.95
    eps: Positive = 1e-8
    precondition_frequency: Annotated[int, Field(ge=1)] = 10
    max_precondition_dim: Annotated[int, Field(ge=1)] = 10_000
    weight_decay: NotNegative = 0.01


class ScheduleFreeSgd(OptimizerTable):
    """SGD that evaluates the mean of its iterates in place of a schedule (Defazio et al. 2024, equations 3 to 5).

    Gradients are taken at y, evaluated and kept is x. ``r`` and ``weight_lr_power`` weight the mean.
    """

    update_rule = (
        "z = z - lr * g(y); x = (1 - c) * x + c * z, c = t^r * lr^weight_lr_power over its sum so far\n"
        "y = (1 - momentum) * z + momentum * x"
    )
    memory = "1 float a parameter"
    source = "Defazio et al. 2024, The Road Less Scheduled, arXiv:2405.15682"

    lr: Annotated[Positive, Search(low=1e-2, high=10.0, log=True)] = 1.0
    momentum: Annotated[Inner, Search(low=0.8, high=0.98)] = 0.9
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    r: NotNegative = 0.0
    weight_lr_power: NotNegative = 2.0
    weight_decay: NotNegative = 0.0


class ScheduleFreeAdamW(OptimizerTable):
    """AdamW that evaluates the mean of its iterates in place of a schedule (Defazio et al. 2024, algorithm 1).

    Gradients are taken at y, evaluated and kept is x. ``r`` and ``weight_lr_power`` weight the mean.
    """

    update_rule = (
        "v = beta2 * v + (1 - beta2) * g(y)^2; z = z - lr * (g(y) / (sqrt(v / (1 - beta2^t)) + eps) + "
        "weight_decay * y)\n"
        "x = (1 - c) * x + c * z, c = t^r * lr^weight_lr_power over its sum so far; y = (1 - beta1) * z + beta1 * x"
    )
    memory = "2 floats a parameter"
    source = ScheduleFreeSgd.source

    lr: Annotated[Positive, Search(low=1e-4, high=3e-2, log=True)] = 2.5e-3
    beta1: Annotated[Inner, Search(low=0.8, high=0.98)] = 0.9
    beta2: Share = 0.999
    eps: Positive = 1e-8
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    r: NotNegative = 0.0
    weight_lr_power: NotNegative = 2.0
    weight_decay: NotNegative = 0.0


class Lbfgs(OptimizerTable):
    """L-BFGS whose ranks take one decision (Liu and Nocedal 1989; sharded as Chen, Wang and Zhou 2014).

    ``overlap``: the share of each batch that pairs are made of (Berahas, Nocedal and Takac 2016); 0 for all of it.
    """

    reduces: ClassVar[bool] = True
    evaluates_again: ClassVar[bool] = True
    elementwise: ClassVar[bool] = False
    update_rule = (
        "up to max_iter times: direction -H g, H from the last history_size pairs of changes of w and g (two loops); "
        "w = w + length * direction, length by line_search"
    )
    memory = "2 * history_size floats a parameter; on each rank its share of them where mode is sharded"
    communication = (
        "it adds up over ranks itself, at each of an update's evaluations; in place of a study's strategies it takes "
        "single on one rank and by-optimizer on several"
    )
    source = (
        "Liu and Nocedal 1989, On the limited memory BFGS method for large scale optimization; "
        "sharded: Chen, Wang and Zhou 2014, Large-scale L-BFGS using MapReduce"
    )

    lr: Annotated[float, Field(gt=0), Search(low=1e-2, high=1.0, log=True)] = 1.0
    max_iter: Annotated[int, Field(ge=1, le=10_000), Search(low=1, high=20, log=True)] = 20
    max_eval: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    tolerance_grad: Annotated[float, Field(ge=0, lt=1)] = 1e-7
    tolerance_change: Annotated[float, Field(ge=0, lt=1)] = 1e-9
    history_size: Annotated[int, Field(ge=1, le=10_000)] = 100
    line_search: Annotated[
        Literal["weak_wolfe", "strong_wolfe", "armijo", "fixed"], Choices(values=("weak_wolfe", "fixed"))
    ] = "weak_wolfe"
    max_line_search: Annotated[int, Field(ge=1)] = 25
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.0
    damping: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    mode: Literal["auto", "replicated", "sharded"] = "auto"


class LbfgsTorch(OptimizerTable):
    """torch.optim.LBFGS, its closure made safe under several ranks (Liu and Nocedal 1989; Nocedal and Wright 2006)."""

    evaluates_again: ClassVar[bool] = True
    elementwise: ClassVar[bool] = False
    update_rule = Lbfgs.update_rule
    memory = "2 * history_size floats a parameter"
    communication = "that of its strategy, at each of an update's evaluations"
    source = (
        "Liu and Nocedal 1989, On the limited memory BFGS method for large scale optimization; "
        "Nocedal and Wright 2006, Numerical Optimization, algorithm 7.5"
    )

    lr: Annotated[float, Field(gt=0), Search(low=1e-2, high=1.0, log=True)] = 1.0
    max_iter: Annotated[int, Field(ge=1, le=10_000), Search(low=1, high=20, log=True)] = 20
    max_eval: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    tolerance_grad: Annotated[float, Field(ge=0)] = 1e-7
    tolerance_change: Annotated[float, Field(ge=0)] = 1e-9
    history_size: Annotated[int, Field(ge=1, le=10_000)] = 100
    line_search: Annotated[Literal["none", "strong_wolfe"], Choices(values=("none", "strong_wolfe"))] = "none"


class LbfgsTorchAllReduce(LbfgsTorch):
    """torch.optim.LBFGS with the usual workaround: one more all-reduce, of the loss, at each evaluation."""

    communication = f"{LbfgsTorch.communication}, and an all-reduce of the loss"


class AnyHyperparameters(BaseModel):
    """Of an optimizer from outside: every scalar is passed on to its ``build``, which checks it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, bool | int | float | str]


OPTIMIZERS: dict[str, type[OptimizerTable]] = {
    "adafactor": Adafactor,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "lamb": Lamb,
    "lars": Lars,
    "lbfgs": Lbfgs,
    "lbfgs-torch": LbfgsTorch,
    "lbfgs-torch-allreduce": LbfgsTorchAllReduce,
    "lion": Lion,
    "muon": Muon,
    "nadam": Nadam,
    "rmsprop": Rmsprop,
    "schedule-free-adamw": ScheduleFreeAdamW,
    "schedule-free-sgd": ScheduleFreeSgd,
    "sgd": Sgd,
    "sgd-nesterov": SgdNesterov,
    "shampoo": Shampoo,
    "soap": Soap,
}


def hyperparameters_of(optimizer: str) -> type[BaseModel]:
    """The table of a canonical optimizer name; permissive for one from outside."""
    return OPTIMIZERS.get(optimizer, AnyHyperparameters)


def reduces(optimizer: str) -> bool:
    """Whether an optimizer, by its canonical name, adds up over ranks itself."""
    return optimizer in OPTIMIZERS and OPTIMIZERS[optimizer].reduces
