//! New limits for a container whose programs run.

use super::raw::{RawLayer, RawLimits, Refusal, Setting};
use super::{GpuLimits, Keys, Layer, variables};
use crate::units::DeviceUuid;

/// What shall become of a container's limits.
#[derive(Clone, Debug)]
pub struct Change(Layer);

impl Change {
    /// Each text as the variable of its limit has it: `VALUE`, or `GPU-…=VALUE` for one GPU; `None`: that limit stays. As
    /// everywhere, `sm` without `sm_max` is a hard cap.
    ///
    /// # Errors
    /// A value that means nothing, or an `sm_max` below the `sm` beside it.
    pub fn parse(
        memory: Option<&str>,
        sm: Option<&str>,
        sm_max: Option<&str>,
    ) -> Result<Self, Refusal> {
        let mut raw = RawLayer::default();
        let mut assign =
            |name: &str, text: Option<&str>, key: fn(&mut RawLimits) -> &mut Option<Setting>| {
                let Some(text) = text else { return Ok(()) };
                let setting = Setting {
                    source: "command line".to_owned(),
                    key: name.to_owned(),
                    value: text.to_owned(),
                };
                variables::assign(&mut raw, &setting, key)
            };
        assign("--memory", memory, |limits| &mut limits.memory)?;
        assign("--sm", sm, |limits| &mut limits.sm)?;
        assign("--sm-max", sm_max, |limits| &mut limits.sm_max)?;
        Layer::check(&raw).map(Self)
    }

    /// What the limits on each of these GPUs become, in that order.
    ///
    /// # Errors
    /// A GPU is named that is none of these, or an `sm_max` would be below the `sm` that stays.
    pub fn apply(&self, gpus: &[(DeviceUuid, GpuLimits)]) -> Result<Vec<GpuLimits>, Refusal> {
        let uuids: Vec<DeviceUuid> = gpus.iter().map(|(uuid, _)| *uuid).collect();
        let change = |(ordinal, (_, limits)): (usize, &(DeviceUuid, GpuLimits))| {
            limits.changed_by(self.0.limits_of(ordinal, &uuids)?)
        };
        gpus.iter().enumerate().map(change).collect()
    }
}

impl GpuLimits {
    /// These limits where `keys` says nothing.
    fn changed_by(self, keys: Keys) -> Result<Self, Refusal> {
        let changed = Self {
            memory_bytes_max: keys.memory.unwrap_or(self.memory_bytes_max),
            sm: keys.sm.or(self.sm),
            sm_max: keys.sm_max.or(keys.sm).or(self.sm_max),
        };
        match (changed.sm, changed.sm_max) {
            (Some(sm), Some(sm_max)) if sm_max < sm => {
                let setting = Setting {
                    source: "command line".to_owned(),
                    key: "--sm-max".to_owned(),
                    value: sm_max.to_string(),
                };
                Err(setting.refuse(
                    "is less than the container's sm",
                    &format!("{sm} to 100%, or another --sm with it"),
                ))
            }
            _ => Ok(changed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    const ONE: DeviceUuid = DeviceUuid::from_bytes([1; 16]);
    const TWO: DeviceUuid = DeviceUuid::from_bytes([2; 16]);

    fn limits(memory: Option<u64>, sm: &str, sm_max: &str) -> GpuLimits {
        GpuLimits {
            memory_bytes_max: memory.map(Bytes::new),
            sm: sm.parse().ok(),
            sm_max: sm_max.parse().ok(),
        }
    }

    fn applied(
        [memory, sm, sm_max]: [Option<&str>; 3],
        before: GpuLimits,
    ) -> Result<GpuLimits, String> {
        let change = Change::parse(memory, sm, sm_max).map_err(|refusal| refusal.to_string())?;
        let after = change.apply(&[(ONE, before)]);
        after
            .map(|limits| limits[0])
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn what_a_change_does_not_name_stays() {
        let before = limits(Some(100), "30", "60");
        let cases = [
            ([Some("50"), None, None], limits(Some(50), "30", "60")),
            ([Some("max"), None, None], limits(None, "30", "60")),
            ([None, Some("40"), None], limits(Some(100), "40", "40")),
            (
                [None, Some("40"), Some("80")],
                limits(Some(100), "40", "80"),
            ),
            ([None, None, Some("30")], limits(Some(100), "30", "30")),
        ];
        for (change, after) in cases {
            assert_eq!(applied(change, before), Ok(after), "{change:?}");
        }
    }

    #[test]
    fn a_change_that_means_nothing_is_refused_with_its_option() {
        let before = limits(Some(100), "30", "60");
        for (change, told) in [
            ([Some("-1"), None, None], "command line: --memory = \"-1\""),
            ([None, Some("0"), None], "command line: --sm = \"0\""),
            (
                [None, Some("50"), Some("40")],
                "command line: --sm-max = \"40\": is less than sm",
            ),
            (
                [None, None, Some("20")],
                "is less than the container's sm; allowed: 30% to 100%",
            ),
            (
                [Some("GPU-0202=1"), None, None],
                "names a GPU that does not exist",
            ),
        ] {
            let refusal = applied(change, before).unwrap_err();
            assert!(refusal.contains(told), "{refusal}");
        }
    }

    #[test]
    fn one_gpu_can_be_changed_alone() {
        let change = Change::parse(Some("GPU-0202=7"), None, None).unwrap();
        let before = limits(Some(100), "30", "60");
        let after = change.apply(&[(ONE, before), (TWO, before)]).unwrap();
        assert_eq!(after, [before, limits(Some(7), "30", "60")]);
    }
}
