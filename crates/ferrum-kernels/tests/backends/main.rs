//! One suite for every backend: each operation over many shapes, against the oracle.
//!
//! A file per operation has the cases, how to run one on any backend, and the bound of the error
//! with its reason. A new backend needs a function like [`cpus`] and a line per test.

#[path = "../common/mod.rs"]
mod common;
mod harness;

mod adjusted;
mod attention;
mod attention_forms;
mod attention_values;
mod caches_refused;
mod collectives;
mod columns;
mod dense;
mod embed;
mod experts;
mod experts_refused;
mod fp8;
mod gated_linear;
mod gather_rows;
mod invariance;
mod layer_norm;
mod linear;
mod logprobs;
mod packed_attention;
mod refusals;
mod rms_norm;
mod rope;
mod sample;
mod small_cases;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use ferrum_kernels::Backend;
use ferrum_kernels::cpu::{Cpu, CpuConfig, Isa};
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use ferrum_kernels::cuda::{Cuda, CudaConfig};
use ferrum_kernels::profiled::Profiled;
use ferrum_kernels::reference::Reference;
use harness::Subject;

/// The processor with every instruction set that it has, on one thread and on two.
fn cpus() -> Vec<Subject<Cpu>> {
    let mut subjects = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 2] {
            let cpu = Cpu::new(CpuConfig { threads, isa: Some(isa), ..CpuConfig::default() })
                .expect("available");
            subjects.push(Subject::new(format!("cpu {isa} x{threads}"), cpu));
        }
    }
    subjects
}

/// The processor behind the decorator that measures it.
fn profiled() -> Vec<Subject<Profiled<Cpu>>> {
    let cpu = Cpu::new(CpuConfig { threads: 2, ..CpuConfig::default() }).expect("a processor");
    vec![Subject::new("profiled cpu".into(), Profiled::new(cpu).0)]
}

/// Whether cards are the machine's, for `cargo xtask gpu-check`.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn real_cards() -> bool {
    std::env::var("FERRUM_TEST_CUDA").is_ok_and(|which| which == "card")
}

/// Emulated cards, which run blocks, warps and lanes in three different orders; or a real one.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn cudas() -> Vec<Subject<Cuda>> {
    let real = real_cards();
    // The emulator has a cache of its own.
    let kernel_cache = real.then(|| concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels").into());
    let open = |ordinal| {
        let kernel_cache = kernel_cache.clone();
        Cuda::new(&CudaConfig { ordinal, kernel_cache, ..CudaConfig::default() }).expect("a card")
    };
    if real {
        return vec![Subject::new("cuda".into(), open(0))];
    }
    ferrum_cuda_emulator::load().expect("an emulated driver");
    let label = |ordinal| format!("cuda {:?}", ferrum_cuda_emulator::schedule(ordinal));
    let subject = |ordinal| Subject::new(label(ordinal), open(ordinal));
    ferrum_cuda_emulator::ONE_OF_EACH_SCHEDULE.map(subject).into()
}

/// Those of them, or the machine's if it is one, that multiply floats of eight bits.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn fp8_cudas() -> Vec<Subject<Cuda>> {
    if real_cards() {
        return cudas().into_iter().filter(|s| s.backend.keeps_e4m3()).collect();
    }
    ferrum_cuda_emulator::load().expect("an emulated driver");
    let open = |ordinal| {
        let cuda = Cuda::new(&CudaConfig { ordinal, ..CudaConfig::default() }).expect("a card");
        assert!(cuda.keeps_e4m3(), "compute capability 9.0 and cuBLASLt");
        Subject::new(format!("cuda {:?}", ferrum_cuda_emulator::schedule(ordinal)), cuda)
    };
    ferrum_cuda_emulator::WITH_FP8.map(open).into()
}

/// Those that do not.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn other_cudas() -> Vec<Subject<Cuda>> {
    cudas().into_iter().filter(|s| !s.backend.keeps_e4m3()).collect()
}

/// The oracle itself, as a backend among others.
fn references() -> Vec<Subject<Reference>> {
    vec![Subject::new("reference".into(), Reference::new())]
}

/// Tests of the suite, on one list of backends.
macro_rules! on {
    ($name:ident, $subjects:path: $($module:ident :: $test:ident),* $(,)?) => {
        mod $name {
            $(#[test] fn $test() { super::$module::$test(&mut $subjects()); })*
        }
    };
}

on! { cpu, super::cpus:
    linear::linear_of_every_format_and_shape,
    linear::linear_of_extremes,
    linear::linear_with_outputs_of_several_formats,
    linear::linear_with_outputs_of_one_format,
    linear::linear_of_nothing,
    columns::outputs_of_several_orders,
    columns::gates_of_several_orders,
    columns::wrong_orders_are_refused,
    gated_linear::gated_linear_of_every_format,
    gated_linear::gated_linear_of_extremes,
    embed::embed_of_every_format,
    experts::routes_of_every_shape,
    experts::expert_gated_linear_of_every_format,
    experts::expert_combine_of_every_format,
    experts::tokens_of_experts_are_independent,
    experts::experts_worked_by_hand,
    experts_refused::wrong_operands_of_experts_are_refused,
    experts_refused::stacks_are_refused_where_one_weight_is_meant,
    rms_norm::rms_norm_of_every_shape,
    layer_norm::layer_norm_of_every_shape,
    layer_norm::layer_norm_rows_are_independent,
    layer_norm::activate_of_every_shape,
    packed_attention::packed_attention_of_every_shape,
    packed_attention::packed_sequences_are_independent,
    packed_attention::wrong_packed_attention_is_refused,
    embed::embed_adds_up,
    rope::rope_of_every_shape,
    gather_rows::gather_rows_of_every_shape,
    gather_rows::scatter_add_of_every_shape,
    gather_rows::a_gate_after_linears_is_a_gated_linear,
    gather_rows::wrong_scatters_and_gates_are_refused,
    attention::attention_of_every_shape,
    attention::attention_over_long_contexts,
    attention::attention_of_large_scores,
    attention_values::attention_of_unlike_columns,
    attention_values::attention_of_what_is_no_number,
    attention_values::later_tokens_change_no_bit,
    attention_forms::attention_with_sinks,
    attention_forms::sinks_that_are_nothing,
    attention_forms::attention_to_prefixes_of_keys,
    attention::attention_in_chunks_equals_one_shot,
    invariance::linear_rows_and_outputs_are_independent,
    invariance::gated_linear_rows_are_independent,
    invariance::attention_of_sequences_is_independent,
    invariance::threads_do_not_change_results,
    logprobs::logprobs_of_every_shape,
    logprobs::logprobs_of_extremes,
    logprobs::logprobs_worked_by_hand,
    logprobs::wrong_logprobs_are_refused,
    adjusted::adjusted_samples_of_every_shape,
    adjusted::adjusted_samples_are_those_of_adjusted_rows,
    adjusted::adjusted_samples_worked_by_hand,
    adjusted::wrong_adjustments_are_refused,
    sample::samples_of_every_shape,
    sample::samples_with_many_equal_logits,
    sample::samples_of_what_is_no_number,
    sample::samples_worked_by_hand,
    sample::wrong_samples_are_refused,
    small_cases::worked_by_hand,
    refusals::wrong_operands_are_refused,
    refusals::wrong_batches_are_refused,
    refusals::wrong_weights_are_refused,
    caches_refused::wrong_caches_are_refused,
    fp8::fp8_is_refused,
}

on! { profiled, super::profiled:
    linear::linear_with_outputs_of_several_formats,
    gated_linear::gated_linear_of_extremes,
    embed::embed_of_every_format,
    experts::routes_of_every_shape,
    experts::experts_worked_by_hand,
    rms_norm::rms_norm_of_every_shape,
    layer_norm::layer_norm_of_every_shape,
    layer_norm::activate_of_every_shape,
    packed_attention::packed_attention_of_every_shape,
    embed::embed_adds_up,
    rope::rope_of_every_shape,
    gather_rows::gather_rows_of_every_shape,
    gather_rows::scatter_add_of_every_shape,
    gather_rows::a_gate_after_linears_is_a_gated_linear,
    gather_rows::wrong_scatters_and_gates_are_refused,
    attention::attention_of_every_shape,
    logprobs::logprobs_of_every_shape,
    logprobs::logprobs_of_extremes,
    logprobs::logprobs_worked_by_hand,
    logprobs::wrong_logprobs_are_refused,
    adjusted::adjusted_samples_of_every_shape,
    adjusted::adjusted_samples_are_those_of_adjusted_rows,
    adjusted::adjusted_samples_worked_by_hand,
    adjusted::wrong_adjustments_are_refused,
    sample::samples_of_every_shape,
    sample::samples_with_many_equal_logits,
    sample::samples_of_what_is_no_number,
    sample::samples_worked_by_hand,
    sample::wrong_samples_are_refused,
    small_cases::worked_by_hand,
    refusals::wrong_operands_are_refused,
    refusals::wrong_batches_are_refused,
}

// The emulator is for these alone.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
on! { cuda, super::cudas:
    linear::linear_of_every_format,
    linear::linear_of_extremes,
    linear::linear_with_outputs_of_several_formats,
    linear::linear_with_outputs_of_one_format,
    linear::linear_of_nothing,
    dense::dense_linear_of_many_tokens,
    dense::dense_linear_of_unlike_tokens,
    dense::dense_linear_of_what_is_no_number,
    dense::dense_gated_linear_of_many_tokens,
    fp8::fp8_linear,
    fp8::fp8_gated_linear,
    fp8::fp8_experts,
    fp8::fp8_embed,
    fp8::fp8_rows_are_independent,
    fp8::fp8_weights_are_checked,
    columns::outputs_of_several_orders,
    columns::gates_of_several_orders,
    columns::wrong_orders_are_refused,
    gated_linear::gated_linear_of_some_shapes,
    gated_linear::gated_linear_of_extremes,
    embed::embed_of_every_format,
    experts::routes_of_every_shape,
    experts::expert_gated_linear_of_every_format,
    experts::expert_combine_of_every_format,
    experts::few_tokens_of_experts_are_independent,
    experts::many_tokens_of_experts_are_independent,
    experts::experts_worked_by_hand,
    experts_refused::wrong_operands_of_experts_are_refused,
    experts_refused::stacks_are_refused_where_one_weight_is_meant,
    rms_norm::rms_norm_of_every_shape,
    layer_norm::layer_norm_of_every_shape,
    layer_norm::layer_norm_rows_are_independent,
    layer_norm::activate_of_every_shape,
    packed_attention::packed_attention_of_every_shape,
    packed_attention::packed_sequences_are_independent,
    packed_attention::wrong_packed_attention_is_refused,
    embed::embed_adds_up,
    rope::rope_of_every_shape,
    gather_rows::gather_rows_of_every_shape,
    gather_rows::scatter_add_of_every_shape,
    gather_rows::a_gate_after_linears_is_a_gated_linear,
    gather_rows::wrong_scatters_and_gates_are_refused,
    attention::attention_of_every_shape,
    attention::attention_over_long_contexts,
    attention::attention_of_large_scores,
    attention_values::attention_of_unlike_columns,
    attention_values::attention_of_what_is_no_number,
    attention_values::later_tokens_change_no_bit,
    attention_forms::attention_with_sinks,
    attention_forms::sinks_that_are_nothing,
    attention_forms::attention_to_prefixes_of_keys,
    attention::attention_in_chunks_equals_one_shot,
    invariance::few_linear_rows_are_independent,
    invariance::many_linear_rows_are_independent,
    invariance::few_gated_linear_rows_are_independent,
    invariance::many_gated_linear_rows_are_independent,
    invariance::attention_of_sequences_is_independent,
    logprobs::logprobs_of_every_shape,
    logprobs::logprobs_of_extremes,
    logprobs::logprobs_worked_by_hand,
    logprobs::wrong_logprobs_are_refused,
    adjusted::adjusted_samples_of_every_shape,
    adjusted::adjusted_samples_are_those_of_adjusted_rows,
    adjusted::adjusted_samples_worked_by_hand,
    adjusted::wrong_adjustments_are_refused,
    sample::samples_of_every_shape,
    sample::samples_with_many_equal_logits,
    sample::samples_of_what_is_no_number,
    sample::samples_worked_by_hand,
    sample::wrong_samples_are_refused,
    small_cases::worked_by_hand,
    refusals::wrong_operands_are_refused,
    refusals::wrong_batches_are_refused,
    refusals::wrong_weights_are_refused,
    caches_refused::wrong_caches_are_refused,
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
on! { fp8_cuda, super::fp8_cudas:
    fp8::fp8_linear_of_many_tokens,
    fp8::fp8_linear_of_unlike_tokens,
    fp8::fp8_linear_of_what_is_no_number,
    fp8::fp8_gated_linear_of_many_tokens,
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
on! { other_cuda, super::other_cudas: fp8::fp8_is_not_rounded }

/// Processors as the ranks of a world.
fn cpu_ranks() -> Vec<Subject<Cpu>> {
    let cpu = |rank| {
        let cpu = Cpu::new(CpuConfig { threads: 1, ..CpuConfig::default() }).expect("a processor");
        Subject::new(format!("cpu, rank {rank}"), cpu)
    };
    (0..4).map(cpu).collect()
}

fn profiled_ranks() -> Vec<Subject<Profiled<Cpu>>> {
    let profiled = |s: Subject<Cpu>| Subject::new(s.label, Profiled::new(s.backend).0);
    cpu_ranks().into_iter().map(profiled).collect()
}

fn reference_ranks() -> Vec<Subject<Reference>> {
    (0..4).map(|rank| Subject::new(format!("reference, rank {rank}"), Reference::new())).collect()
}

/// All cards of the machine.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn real_cuda_ranks() -> Vec<Subject<Cuda>> {
    let open = |ordinal| {
        let cuda = Cuda::new(&CudaConfig { ordinal, ..CudaConfig::default() });
        Subject::new(format!("cuda, card {ordinal}"), cuda.expect("a card"))
    };
    (0..ferrum_kernels::cuda::devices().expect("cards").len()).map(open).collect()
}

/// Emulated cards that no other test has, one of each schedule: an error stays with a card.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn cuda_ranks() -> Vec<Subject<Cuda>> {
    ferrum_cuda_emulator::load().expect("an emulated driver");
    let open = |ordinal: usize| {
        let cuda = Cuda::new(&CudaConfig { ordinal: ordinal + 1, ..CudaConfig::default() });
        Subject::new(format!("cuda, card {}", ordinal + 1), cuda.expect("a card"))
    };
    ferrum_cuda_emulator::ONE_OF_EACH_SCHEDULE.map(open).into()
}

#[test]
fn collectives_of_cpu_world() {
    collectives::collectives(cpu_ranks);
}

#[test]
fn collectives_of_profiled_world() {
    collectives::collectives(profiled_ranks);
}

#[test]
fn collectives_of_reference_world() {
    collectives::collectives(reference_ranks);
}

#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn collectives_of_cuda_world() {
    // What real cards do with ranks that disagree is not defined.
    match real_cards() {
        true => collectives::collectives_of_good_ranks(real_cuda_ranks),
        false => collectives::collectives(cuda_ranks),
    }
}

// The oracle cannot be held against itself: against values worked out by hand.
on! { reference, super::references:
    fp8::fp8_weights_are_checked,
    linear::linear_with_outputs_of_one_format,
    linear::linear_of_nothing,
    columns::wrong_orders_are_refused,
    gather_rows::scatter_add_of_every_shape,
    gather_rows::a_gate_after_linears_is_a_gated_linear,
    gather_rows::wrong_scatters_and_gates_are_refused,
    embed::embed_adds_up,
    packed_attention::wrong_packed_attention_is_refused,
    attention::attention_in_chunks_equals_one_shot,
    experts::experts_worked_by_hand,
    experts_refused::wrong_operands_of_experts_are_refused,
    experts_refused::stacks_are_refused_where_one_weight_is_meant,
    logprobs::logprobs_worked_by_hand,
    logprobs::wrong_logprobs_are_refused,
    adjusted::adjusted_samples_worked_by_hand,
    adjusted::wrong_adjustments_are_refused,
    sample::samples_worked_by_hand,
    sample::samples_of_what_is_no_number,
    sample::wrong_samples_are_refused,
    small_cases::worked_by_hand,
    refusals::wrong_operands_are_refused,
    refusals::wrong_batches_are_refused,
    refusals::wrong_weights_are_refused,
    caches_refused::wrong_caches_are_refused,
}
