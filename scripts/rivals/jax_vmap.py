"""All runs at once: vmap over runs, scan over epochs and steps, one jitted function.

The last batch of an epoch is filled up with examples of weight 0. With --devices, the runs are spread over as many
of XLA's CPU devices.
"""

import argparse
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array, lax, random
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from work import Clock, Work, finish

Params = list[tuple[Array, Array]]
State = tuple[Params, Params]  # parameters and velocities


def start(key: Array, sizes: list[int]) -> Params:
    keys = random.split(key, len(sizes) - 1)
    layers = zip(keys, pairwise(sizes), strict=True)
    return [(random.normal(k, (i, o)) * jnp.sqrt(2 / i), jnp.zeros(o)) for k, (i, o) in layers]


def logits(params: Params, x: Array) -> Array:
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


def dropped_logits(params: Params, x: Array, key: Array, rate: Array) -> Array:
    keys = random.split(key, len(params) - 1)
    for (weight, bias), k in zip(params[:-1], keys, strict=True):
        x = jax.nn.relu(x @ weight + bias)
        x = jnp.where(random.bernoulli(k, 1 - rate, x.shape), x / (1 - rate), 0)
    weight, bias = params[-1]
    return x @ weight + bias


def losses(z: Array, y: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1)[:, 0]


def train(x: Array, y: Array, key: Array, lr: Array, rate: Array, own: Array, val: Array, *, work: Work) -> Array:
    """One run: (epochs, 2) val loss and accuracy. x, y: all examples; own, val: the run's indices into them."""
    n, steps = own.shape[0], -(-own.shape[0] // work.batch)
    real = (jnp.arange(steps * work.batch) < n).astype(x.dtype).reshape(steps, work.batch)

    def mean_loss(params: Params, index: Array, weight: Array, key: Array) -> Array:
        return (losses(dropped_logits(params, x[index], key, rate), y[index]) * weight).sum() / weight.sum()

    def step(state: State, batch: tuple[Array, Array, Array]) -> tuple[State, None]:
        params, velocity = state
        gradient = jax.grad(mean_loss)(params, *batch)
        velocity = jax.tree.map(lambda v, g: work.momentum * v + g, velocity, gradient)
        return (jax.tree.map(lambda p, v: p - lr * v, params, velocity), velocity), None

    def epoch(state: State, key: Array) -> tuple[State, Array]:
        order, masks = random.split(key)
        index = jnp.resize(random.permutation(order, own), (steps, work.batch))
        state, _ = lax.scan(step, state, (index, real, random.split(masks, steps)))
        z = logits(state[0], x[val])
        return state, jnp.stack([losses(z, y[val]).mean(), (z.argmax(1) == y[val]).mean()])

    first, rest = random.split(key)
    params = start(first, work.sizes)
    return lax.scan(epoch, (params, jax.tree.map(jnp.zeros_like, params)), random.split(rest, work.epochs))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    work = Work.load(options.work)
    shared = jnp.array(work.inputs, "float32") / work.top, jnp.array(work.targets)
    each = (jax.vmap(random.key)(work.seed), work.lr.astype("float32"), work.rate.astype("float32"))
    indices = work.train[work.split], work.val[work.split]
    mesh = Mesh(jax.devices(), ("runs",))
    everywhere, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("runs"))
    arguments = *jax.device_put(shared, everywhere), *jax.device_put((*each, *indices), spread)
    sweep = jax.jit(jax.vmap(partial(train, work=work), in_axes=(None, None, 0, 0, 0, 0, 0)))
    compiled = sweep.lower(*arguments).compile()
    clock = Clock.start()
    curves = jax.block_until_ready(compiled(*arguments))
    finish(curves.tolist(), work.steps, clock)


if __name__ == "__main__":
    main()
