//! Mixtures of experts: what their metadata means, what is refused, and what is counted.

use anyhow::{Context, Result};
use ferrum_kernels::Format;
use ferrum_models::arch;
use ferrum_models::cpu::Isa;
use ferrum_models::decoder::{ExpertsSpec, MlpSpec, QkNorm};
use ferrum_models::gguf::{Gguf, GgufWriter, Value};
use ferrum_models::synth::{PRESETS, SynthSpec};
use ferrum_models::{Device, LoadOptions, ModelError, memory_estimate};

/// Metadata of a mixture of 8 experts, of which 2 work on a token, and `more` (which replaces what
/// it names; `None` takes it out).
fn mixture(arch: &str, more: &[(&str, Option<Value>)]) -> Result<Gguf> {
    let mut meta: Vec<(&str, Value)> = [
        ("block_count", 3u32),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 96),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("expert_count", 8),
        ("expert_used_count", 2),
        ("expert_feed_forward_length", 40),
    ]
    .map(|(key, value)| (key, value.into()))
    .to_vec();
    meta.push(("attention.layer_norm_rms_epsilon", 1e-6f32.into()));
    meta.retain(|(key, _)| more.iter().all(|(k, _)| k != key));
    meta.extend(more.iter().filter_map(|(k, v)| v.clone().map(|v| (*k, v))));
    let mut file = GgufWriter::new();
    file.set("general.architecture", arch)?;
    for (key, value) in meta {
        file.set(&format!("{arch}.{key}"), value)?;
    }
    file.tensor("token_embd.weight", Format::F32, &[32, 4])?;
    let place = tempfile::NamedTempFile::new()?;
    let mut out = file.start(place.reopen()?)?;
    out.write("token_embd.weight", &[0; 4 * 32 * 4])?;
    out.finish()?;
    Ok(Gguf::open(place.path())?)
}

fn mlp(more: &[(&str, Option<Value>)]) -> Result<(MlpSpec, ExpertsSpec)> {
    let spec = arch::spec(&mixture("qwen3moe", more)?)?;
    assert_eq!(spec.layers.len(), 3);
    assert!(spec.layers.iter().all(|l| l.mlp == spec.layers[0].mlp && l.qk_norm == QkNorm::Head));
    let mlp = spec.layers[0].mlp;
    Ok((mlp, *mlp.experts().context("a mixture")?))
}

#[test]
fn the_metadata_of_a_mixture_is_read() -> Result<()> {
    let plain = ExpertsSpec { count: 8, used: 2, normalize: true, scale: 1.0 };
    let (spec, experts) = mlp(&[])?;
    assert_eq!((spec.width, experts), (40, plain));
    // Without a width of its own, the experts of a token are together as wide as a dense MLP.
    assert_eq!(mlp(&[("expert_feed_forward_length", None)])?.0.width, 48);
    let with = |key, value: Value| mlp(&[(key, Some(value))]).map(|(_, experts)| experts);
    assert_eq!(
        with("expert_weights_norm", false.into())?,
        ExpertsSpec { normalize: false, ..plain }
    );
    assert_eq!(with("expert_weights_norm", true.into())?, plain);
    assert_eq!(with("expert_weights_scale", 2.5f32.into())?, ExpertsSpec { scale: 2.5, ..plain });
    assert_eq!(with("expert_weights_scale", 0f32.into())?, plain);
    assert_eq!(with("expert_gating_func", 1u32.into())?, plain);
    assert_eq!(with("expert_used_count", 8u32.into())?, ExpertsSpec { used: 8, ..plain });
    Ok(())
}

/// The setting that is refused.
fn refused(arch: &str, more: &[(&str, Option<Value>)]) -> Result<String> {
    match arch::spec(&mixture(arch, more)?) {
        Err(ModelError::Setting { key, .. }) => Ok(key),
        other => anyhow::bail!("{more:?}: {other:?}"),
    }
}

#[test]
fn settings_of_mixtures_that_are_not_honoured_are_refused_by_name() -> Result<()> {
    for (key, value) in [
        ("expert_count", Value::from(0u32)),
        ("expert_count", u32::MAX.into()),
        ("expert_used_count", 0u32.into()),
        ("expert_used_count", 9u32.into()),
        ("expert_feed_forward_length", u32::MAX.into()),
        ("expert_gating_func", 2u32.into()),
        ("expert_weights_scale", f32::NAN.into()),
        ("expert_shared_count", 1u32.into()),
        ("expert_shared_feed_forward_length", 40u32.into()),
        ("expert_group_count", 4u32.into()),
        ("expert_group_used_count", 2u32.into()),
        ("leading_dense_block_count", 1u32.into()),
        ("interleave_moe_layer_step", 2u32.into()),
    ] {
        assert_eq!(refused("qwen3moe", &[(key, Some(value))])?, format!("qwen3moe.{key}"));
    }
    // An architecture without experts must not leave them out in silence.
    assert_eq!(refused("qwen3", &[])?, "qwen3.expert_count");
    assert_eq!(refused("qwen3", &[("expert_count", None)])?, "qwen3.expert_used_count");
    arch::spec(&mixture("qwen3", &[("expert_count", None), ("expert_used_count", None)])?)?;
    Ok(())
}

#[test]
fn the_memory_of_a_file_that_does_not_load_is_not_estimated() -> Result<()> {
    // Heads of the right size, but the embedding of the file has 32 columns.
    let file = mixture("qwen3moe", &[("embedding_length", Some(40u32.into()))])?;
    match memory_estimate(&file, &LoadOptions::default()) {
        Err(ModelError::TensorShape { name, .. }) => assert_eq!(name, "token_embd.weight"),
        other => anyhow::bail!("{other:?}"),
    }
    Ok(())
}

#[test]
fn sums_that_no_machine_has_do_not_overflow() -> Result<()> {
    let place = tempfile::NamedTempFile::new()?;
    SynthSpec::preset("qwen3moe-tiny").context("a preset")?.write(place.reopen()?)?;
    let options = LoadOptions { kv_blocks: Some(usize::MAX), ..LoadOptions::default() };
    let memory = memory_estimate(&Gguf::open(place.path())?, &options)?;
    assert_eq!((memory.kv_cache, memory.total()), (usize::MAX, usize::MAX));
    Ok(())
}

#[test]
fn flags_that_the_reference_does_not_have_are_refused() -> Result<()> {
    let file = mixture("qwen3moe", &[])?;
    let options = LoadOptions { device: Device::Reference, ..LoadOptions::default() };
    for (flag, options) in [
        ("--threads", LoadOptions { threads: Some(2), ..options.clone() }),
        ("--threads-batch", LoadOptions { threads_batch: Some(2), ..options.clone() }),
        ("--cpu-isa", LoadOptions { isa: Some(Isa::Portable), ..options.clone() }),
    ] {
        let named = format!("{flag} has no meaning with --device reference");
        for error in [
            ferrum_models::load(&file, &options).err(),
            ferrum_models::load_profiled(&file, &options).err(),
            memory_estimate(&file, &options).err(),
        ] {
            assert_eq!(error.context("an error")?.to_string(), named);
        }
    }
    Ok(())
}

#[test]
fn every_tensor_is_counted() -> Result<()> {
    for preset in PRESETS {
        let place = tempfile::NamedTempFile::new()?;
        SynthSpec::preset(preset).context("a preset")?.write(place.reopen()?)?;
        let file = Gguf::open(place.path())?;
        let options = LoadOptions { device: Device::Reference, ..LoadOptions::default() };
        let values: usize = file.tensors().iter().map(|tensor| tensor.elements()).sum();
        // The reference keeps every value in single precision.
        assert_eq!(memory_estimate(&file, &options)?.weights, 4 * values, "{preset}");
    }
    Ok(())
}
