//! The environment variables: which there are, and what their text is made of.

use super::raw::{RawLayer, RawLimits, Refusal, Selector, Setting};

/// Every variable of ours. Another `CUDA_HOOK_…` is refused: it is a typing error, and a limit would be missing.
const KNOWN: [&str; 11] = [
    "CUDA_HOOK_CONFIG",
    "CUDA_HOOK_CONTAINER",
    "CUDA_HOOK_DIR",
    "CUDA_HOOK_DRIVER",
    "CUDA_HOOK_LOG",
    "CUDA_HOOK_MEMORY",
    "CUDA_HOOK_MEMORY_SOFT",
    "CUDA_HOOK_SM",
    "CUDA_HOOK_SM_MAX",
    "CUDA_HOOK_SPILL",
    "CUDA_HOOK_STRICT",
];

/// HAMi-core's (README of Project-HAMi/HAMi-core). `CUDA_DEVICE_MEMORY_LIMIT_<i>` is for the GPU of ordinal `i`.
const HAMI_MEMORY: &str = "CUDA_DEVICE_MEMORY_LIMIT";
const HAMI_SM: &str = "CUDA_DEVICE_SM_LIMIT";

/// What the environment says.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    pub(super) config: Option<Setting>,
    pub(super) container: Option<Setting>,
    pub(super) dir: Option<Setting>,
    pub(super) driver: Option<Setting>,
    pub(super) log: Option<Setting>,
    pub(super) strict: Option<Setting>,
    pub(super) limits: RawLayer,
    pub(super) hami: RawLayer,
}

/// Whether [`read`] looks at a variable of this name.
pub(super) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b"CUDA_HOOK_")
        || name.starts_with(HAMI_MEMORY.as_bytes())
        || name == HAMI_SM.as_bytes()
}

pub(super) fn read(environment: &[(String, String)]) -> Result<Variables, Refusal> {
    let mut variables = Variables::default();
    let mut ours: Vec<_> = environment
        .iter()
        .filter(|(name, _)| is_ours(name.as_bytes()))
        .collect();
    ours.sort(); // which of several refusals is shown must not depend on the order of the environment
    for (name, value) in ours {
        let setting = Setting {
            source: "environment".to_owned(),
            key: name.clone(),
            value: value.clone(),
        };
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return Err(setting.refuse("is not UTF-8", "UTF-8"));
        }
        match name.as_str() {
            "CUDA_HOOK_CONFIG" => variables.config = Some(setting),
            "CUDA_HOOK_CONTAINER" => variables.container = Some(setting),
            "CUDA_HOOK_DIR" => variables.dir = Some(setting),
            "CUDA_HOOK_DRIVER" => variables.driver = Some(setting),
            "CUDA_HOOK_LOG" => variables.log = Some(setting),
            "CUDA_HOOK_STRICT" => variables.strict = Some(setting),
            "CUDA_HOOK_MEMORY" => {
                assign(&mut variables.limits, &setting, |limits| &mut limits.memory)?
            }
            "CUDA_HOOK_MEMORY_SOFT" => {
                assign(&mut variables.limits, &setting, |limits| {
                    &mut limits.memory_soft
                })?;
            }
            "CUDA_HOOK_SPILL" => {
                assign(&mut variables.limits, &setting, |limits| &mut limits.spill)?
            }
            "CUDA_HOOK_SM" => assign(&mut variables.limits, &setting, |limits| &mut limits.sm)?,
            "CUDA_HOOK_SM_MAX" => {
                assign(&mut variables.limits, &setting, |limits| &mut limits.sm_max)?
            }
            _ if name.starts_with("CUDA_HOOK_") => {
                return Err(setting.refuse("is not a known variable", &KNOWN.join(", ")));
            }
            _ => hami(&mut variables.hami, setting)?,
        }
    }
    Ok(variables)
}

/// `VALUE` for every GPU, `GPU-…=VALUE` for one, any number of the latter with commas between.
pub(super) fn assign(
    layer: &mut RawLayer,
    setting: &Setting,
    key: impl Fn(&mut RawLimits) -> &mut Option<Setting>,
) -> Result<(), Refusal> {
    for part in setting.value.split(',') {
        let (name, value) = part
            .split_once('=')
            .map_or((None, part), |(name, value)| (Some(name), value));
        let place = match name {
            None => key(&mut layer.every_gpu),
            Some(name) => key(of_gpu(layer, Selector::uuid(setting, name)?, setting)),
        };
        if place
            .replace(Setting {
                value: value.to_owned(),
                ..setting.clone()
            })
            .is_some()
        {
            return Err(setting.refuse(
                "says two things about one GPU",
                "VALUE, or GPU-…=VALUE and VALUE",
            ));
        }
    }
    Ok(())
}

/// The limits of one GPU, made where missing.
fn of_gpu<'a>(
    layer: &'a mut RawLayer,
    selector: Selector,
    named_by: &Setting,
) -> &'a mut RawLimits {
    let found = layer
        .gpus
        .iter()
        .position(|(other, _, _)| *other == selector);
    let at = found.unwrap_or_else(|| {
        layer
            .gpus
            .push((selector, named_by.clone(), RawLimits::default()));
        layer.gpus.len().saturating_sub(1)
    });
    match layer.gpus.get_mut(at) {
        Some((_, _, limits)) => limits,
        None => &mut layer.every_gpu,
    }
}

/// HAMi-core's meaning: an absent, empty or zero value is no limit; `g m k` are binary. What it would not understand
/// it ignores and runs unlimited; here that is refused.
fn hami(layer: &mut RawLayer, setting: Setting) -> Result<(), Refusal> {
    if setting.key == HAMI_SM {
        if !is_hami_zero(&setting.value) {
            layer.every_gpu.sm = Some(setting);
        }
        return Ok(());
    }
    if is_hami_zero(&setting.value) {
        return Ok(());
    }
    match setting.key.strip_prefix(HAMI_MEMORY) {
        Some("") => layer.every_gpu.memory = Some(setting),
        Some(suffix) => {
            let ordinal = suffix
                .strip_prefix('_')
                .and_then(|ordinal| ordinal.parse().ok());
            let Some(ordinal) = ordinal else {
                return Err(setting.refuse(
                    "is not a known variable",
                    "CUDA_DEVICE_MEMORY_LIMIT, CUDA_DEVICE_MEMORY_LIMIT_<ordinal>",
                ));
            };
            of_gpu(layer, Selector::Ordinal(ordinal), &setting).memory = Some(setting.clone());
        }
        None => {}
    }
    Ok(())
}

/// Empty, `0`, `0m`, `00g`, …
fn is_hami_zero(value: &str) -> bool {
    value
        .strip_suffix(['g', 'G', 'm', 'M', 'k', 'K'])
        .unwrap_or(value)
        .bytes()
        .all(|digit| digit == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_variable_is_read_and_no_other() {
        let read_one = |name: &str| read(&[(name.to_owned(), "1".to_owned())]);
        for name in KNOWN {
            assert!(read_one(name).is_ok(), "{name}");
        }
        assert!(read_one("CUDA_HOOK_OTHER").is_err());
        assert!(read_one("PATH").is_ok());
    }
}
