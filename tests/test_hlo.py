"""Reading of programs, of this machine's compiler and in the forms of GPUs and TPUs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rsclip_jax import hlo, sharding


@pytest.mark.skipif(jax.device_count() != 8, reason="needs the 8 simulated devices")
def test_collectives_in_loops_and_branches_are_counted_as_often_as_they_run():
    mesh = sharding.make_mesh()
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def inside(x):
        def turn(carry, _):
            return carry + jax.lax.psum(x, "data").sum(), None

        total = jax.lax.scan(turn, 0.0, None, length=5)[0]
        gathered = jax.lax.all_gather(x, "data", tiled=True)
        return total + gathered.max(), gathered.min()

    program = jax.jit(
        jax.shard_map(
            inside, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(),
            check_vma=False,
        )
    )  # fmt: skip
    x = jax.ShapeDtypeStruct((8, 256), jnp.float32, sharding=rows)
    found = hlo.collectives(program.lower(x).compile().as_text())
    assert found["all-gather"] == (1, 8 * 256 * 4)
    # The compiler may take the sum out of the loop; it is never counted as once and five times.
    assert found["all-reduce"] in ((5, 5 * 256 * 4), (1, 256 * 4))


PROGRAM = """HloModule step

%cond (p.0: (s32[], f32[4])) -> pred[] {
  %p.0 = (s32[], f32[4]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(11)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (p.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.1 = (bf16[768]{0}, bf16[768,2304]{1,0}) all-reduce(%a, %b), to_apply=%add
}

%chain (p.2: f32[1]) -> f32[4] {
  %all-gather.5 = f32[4096,512]{1,0} all-gather(%p.2), frontend_attributes={chain_id="0"}
}

%other (p.3: f32[1]) -> f32[4] {
  %all-gather.7 = f32[4096,512]{1,0} all-gather(%p.3), frontend_attributes={chain_id="0"}
}

%good (p.4: f32[1]) -> f32[1] {
  %x = f32[1]{0} add(%p.4, %p.4)
  %all-reduce.2 = f32[10]{0} all-reduce(%x), to_apply=%add
}

%bad (p.5: f32[1]) -> f32[1] {
  ROOT %p.5 = f32[1]{0} parameter(0)
}

ENTRY %main (p: f32[1]) -> f32[1] {
  %while.1 = (s32[], f32[4]{0}) while(%t), condition=%cond, body=%body
  %f.1 = f32[4]{0} fusion(%p), kind=kCustom, calls=%chain
  %f.2 = f32[4]{0} fusion(%p), kind=kCustom, calls=%other
  %permute = (f32[2,3]{1,0}, f32[2,3]{1,0}) collective-permute-start(%p)
  ROOT %if = f32[1]{0} conditional(%i, %p, %p), branch_computations={%bad, %good}
}
"""


def test_a_tpu_program_is_read_as_the_compiler_writes_it():
    assert hlo.collectives(PROGRAM) == {
        "all-reduce": (12, 11 * 2 * (768 + 768 * 2304) + 40),
        "all-gather": (1, 4096 * 512 * 4),
        "collective-permute": (1, 24),
    }


# The forms of XLA's GPU compiler, of JAX 0.10.2: what is not read here is left out.
GPU_PROGRAM = """HloModule jit_train_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%gemm_fusion_computation (parameter_0: bf16[8192,96], parameter_1: bf16[96,384]) -> bf16[8192,384] {
  %parameter_0 = bf16[8192,96]{1,0} parameter(0)
  %parameter_1 = bf16[96,384]{1,0} parameter(1)
  ROOT %dot.1 = bf16[8192,384]{1,0} dot(%parameter_0, %parameter_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="fc1"}
}

%async_computation (p.0: f32[128,64], p.1: f32[128,64]) -> (f32[16,64], f32[16,64]) {
  ROOT %reduce-scatter.1 = (f32[16,64]{1,0}, f32[16,64]{1,0}) reduce-scatter(%p.0, %p.1), dimensions={0}, to_apply=%add
}

%cond (t.0: (s32[], bf16[8192,96])) -> pred[] {
  ROOT %compare = pred[] fusion(%i), kind=kLoop, calls=%add
}

%body (t.1: (s32[], bf16[8192,96])) -> (s32[], bf16[8192,96]) {
  %fc1 = bf16[8192,384]{1,0} fusion(%x, %w), kind=kCustom, calls=%gemm_fusion_computation, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %all-gather-start.2 = (f32[16,64]{1,0}, f32[128,64]{1,0}) all-gather-start(%y), dimensions={0}
  %fwd = (bf16[64,12,198,64]{3,1,2,0}, f32[64,12,198]{2,1,0}, u8[0]{0}) custom-call(%q, %k, %v, %n, %n), custom_call_target="__cudnn$fmhaSoftmax", operand_layout_constraints={bf16[64,198,12,64]{3,2,1,0}, bf16[64,198,12,64]{3,2,1,0}, bf16[64,198,12,64]{3,2,1,0}, s32[64]{0}, s32[64]{0}}
}

%good (g: f32[16]) -> f32[16] {
  %bwd = (bf16[64,12,198,64]{3,1,2,0}, bf16[64,12,198,64]{3,1,2,0}, bf16[64,12,198,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %v, %s, %do, /*index=5*/%o, %n, %n), custom_call_target="__cudnn$fmhaSoftmaxBackward", operand_layout_constraints={bf16[64,198,12,64]{3,2,1,0}, bf16[64,198,12,64]{3,2,1,0}, bf16[64,198,12,64]{3,2,1,0}}
  %all-reduce-start = (f32[10]{0}, bf16[6]{0}) all-reduce-start(%a, %b), to_apply=%add
  %all-reduce-done = (f32[10]{0}, bf16[6]{0}) all-reduce-done(%all-reduce-start)
}

%bad (g.1: f32[16]) -> f32[16] {
  ROOT %g.1 = f32[16]{0} parameter(0)
}

ENTRY %main (p: f32[16], i: u8[4,8,8,3]) -> f32[16] {
  %p = f32[16]{0} parameter(0), metadata={op_name="state[\\'params\\'][\\'t\\']"}
  %m = bf16[16]{0} parameter(1), metadata={op_name="state[\\'opt_state\\'].mu[\\'t\\']"}
  %i = u8[4,8,8,3]{3,2,1,0} parameter(2), metadata={op_name="batch[\\'image\\']"}
  %while.1 = (s32[], bf16[8192,96]{1,0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"11"},"known_init_step":{"init":"0","step":"1"}}
  %all-gather-start = ((f32[16,64]{1,0}, f32[16,8]{1,0}), (f32[128,64]{1,0}, f32[128,8]{1,0})) all-gather-start(%c, %d), dimensions={0}
  %all-gather-done = (f32[128,64]{1,0}, f32[128,8]{1,0}) all-gather-done(%all-gather-start)
  %scatter = ((f32[128,64]{1,0}, f32[128,64]{1,0}), (f32[16,64]{1,0}, f32[16,64]{1,0})) async-start(%e, %f), calls=%async_computation
  %scattered = (f32[16,64]{1,0}, f32[16,64]{1,0}) async-done(%scatter)
  %l = bf16[64,256,768]{2,1,0} copy(%z)
  %lt = (bf16[64,256,256]{2,1,0}, s8[4194304]{0}) custom-call(%l, %l), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["2"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]}}}
  %image = bf16[2,8,8,3]{3,2,1,0} copy(%z)
  %kernel = bf16[16,4,4,3]{3,2,1,0} copy(%z)
  %bias = f32[16]{0} copy(%z)
  %conv = (bf16[2,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%image, %kernel, %bias), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBiasActivationForward"
  %y = bf16[2,4,4,16]{3,2,1,0} get-tuple-element(%conv), index=0
  %dx = (bf16[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%y, %kernel), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %dk = (f32[16,4,4,3]{3,2,1,0}, u8[0]{0}) custom-call(%image, %y), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  ROOT %if = f32[16]{0} conditional(%i, %p, %p), true_computation=%good, false_computation=%bad
}
"""  # noqa: E501


def test_collectives_of_a_gpu_program():
    assert hlo.collectives(GPU_PROGRAM) == {
        "all-gather": (12, 11 * 128 * 64 * 4 + 128 * (64 + 8) * 4),
        "reduce-scatter": (1, 2 * 16 * 64 * 4),
        "all-reduce": (1, 10 * 4 + 6 * 2),
    }


def test_products_of_a_gpu_program():
    convolution = 2 * (2 * 4 * 4 * 16) * (4 * 4 * 3)  # outputs x weights of a channel
    assert hlo.product_flops(GPU_PROGRAM) == (
        11 * 2 * 8192 * 384 * 96 + 2 * 64 * 256 * 256 * 768 + 3 * convolution
    )
    assert hlo.convolutions(GPU_PROGRAM) == 3


def test_fused_attention_of_a_gpu_program():
    product = 2 * 64 * 12 * 198 * 198 * 64
    assert hlo.attention(GPU_PROGRAM) == (11, 1, (11 * 2 + 5) * product)


def test_arguments_by_name():
    assert hlo.argument_bytes(GPU_PROGRAM) == {"state": 16 * 4 + 16 * 2, "batch": 4 * 8 * 8 * 3}


def test_products_of_this_machine_are_counted_as_often_as_they_run():
    def step(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    x, w = jnp.ones((128, 64)), jnp.ones((5, 64, 64))
    text = jax.jit(step).lower(x, w).compile().as_text()
    assert hlo.product_flops(text) == 5 * 2 * 128 * 64 * 64
