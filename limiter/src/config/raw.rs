//! Settings as somebody wrote them, each with where it stands, so that a refusal can say so.

use std::fmt;
use std::str::FromStr;

use crate::units::DeviceUuid;

/// One value somebody wrote.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// `environment`, or `path:line` of the config file.
    pub(super) source: String,
    /// The variable's name, or the dotted key.
    pub(super) key: String,
    /// The text as written.
    pub(super) value: String,
}

/// A setting that is not accepted. Displays as the one line for stderr, without a line break.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.line())]
pub struct Refusal {
    pub(super) source_name: String,
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) problem: String,
    pub(super) allowed: String,
}

impl Refusal {
    /// Names and values are anybody's: what a terminal would obey is spelt out.
    fn line(&self) -> String {
        let Self {
            source_name,
            key,
            problem,
            allowed,
            ..
        } = self;
        let value = self.value.as_ref();
        let value = value.map_or_else(String::new, |value| format!(" = {value:?}"));
        let line = format!("cuda-hook: {source_name}: {key}{value}: {problem}; allowed: {allowed}");
        let spelt_out = line.chars().map(|c| match c.is_control() {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        });
        spelt_out.collect()
    }
}

impl Setting {
    pub(super) fn refuse(&self, problem: impl fmt::Display, allowed: &str) -> Refusal {
        Refusal {
            source_name: self.source.clone(),
            key: self.key.clone(),
            value: Some(self.value.clone()),
            problem: problem.to_string(),
            allowed: allowed.to_owned(),
        }
    }

    pub(super) fn parse<T: FromStr<Err: fmt::Display>>(&self, allowed: &str) -> Result<T, Refusal> {
        self.value
            .parse()
            .map_err(|error| self.refuse(error, allowed))
    }
}

/// The limits of one source.
#[derive(Clone, Debug, Default)]
pub(super) struct RawLayer {
    pub(super) every_gpu: RawLimits,
    /// The limits of single GPUs, each with the text that names it.
    pub(super) gpus: Vec<(Selector, Setting, RawLimits)>,
}

/// The limits that stand in one place.
#[derive(Clone, Debug, Default)]
pub(super) struct RawLimits {
    pub(super) memory: Option<Setting>,
    pub(super) memory_soft: Option<Setting>,
    pub(super) spill: Option<Setting>,
    pub(super) sm: Option<Setting>,
    pub(super) sm_max: Option<Setting>,
}

/// How a source names a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selector {
    /// By the beginning of its UUID, as `CUDA_VISIBLE_DEVICES` does.
    Uuid(String),
    /// By its ordinal among the visible ones; naming none is no error (HAMi-core's way).
    Ordinal(usize),
}

impl RawLayer {
    pub(super) fn is_empty(&self) -> bool {
        self.every_gpu.is_empty() && self.gpus.is_empty()
    }
}

impl RawLimits {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            memory,
            memory_soft,
            spill,
            sm,
            sm_max,
        } = self;
        [memory, memory_soft, spill, sm, sm_max]
            .iter()
            .all(|setting| setting.is_none())
    }

    /// These, and where a key is absent, `general`'s.
    pub(super) fn or(&self, general: &Self) -> Self {
        let either = |own: &Option<Setting>, general: &Option<Setting>| {
            own.as_ref().or(general.as_ref()).cloned()
        };
        Self {
            memory: either(&self.memory, &general.memory),
            memory_soft: either(&self.memory_soft, &general.memory_soft),
            spill: either(&self.spill, &general.spill),
            sm: either(&self.sm, &general.sm),
            sm_max: either(&self.sm_max, &general.sm_max),
        }
    }
}

impl Selector {
    /// `GPU-` and any beginning of the rest.
    pub(super) fn uuid(named_by: &Setting, text: &str) -> Result<Self, Refusal> {
        let hex = text.strip_prefix("GPU-").unwrap_or_default();
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Err(named_by.refuse("does not name a GPU", "GPU- and the beginning of a UUID"));
        }
        Ok(Self::Uuid(format!("GPU-{}", hex.to_ascii_lowercase())))
    }

    /// The ordinal among `devices` of the GPU meant.
    pub(super) fn find(
        &self,
        named_by: &Setting,
        devices: &[DeviceUuid],
    ) -> Result<Option<usize>, Refusal> {
        let prefix = match self {
            Self::Ordinal(ordinal) => return Ok((*ordinal < devices.len()).then_some(*ordinal)),
            Self::Uuid(prefix) => prefix,
        };
        let mut matching = devices
            .iter()
            .enumerate()
            .filter(|(_, uuid)| uuid.to_string().starts_with(prefix.as_str()));
        let problem = match (matching.next(), matching.next()) {
            (Some((ordinal, _)), None) => return Ok(Some(ordinal)),
            (Some(_), Some(_)) => "names more than one GPU",
            (None, _) => "names a GPU that does not exist",
        };
        let present: Vec<String> = devices.iter().map(DeviceUuid::to_string).collect();
        Err(named_by.refuse(problem, &present.join(", ")))
    }
}
