//! The model's parameters of time, each with its unit, default, range and source. Each default is fixed before any
//! algorithm is judged on it.
//!
//! Units are the last part of a name. Sources: `[src]` read in NVIDIA's open kernel modules 595.45.04 or a peer's source,
//! `[iss]` measured by third parties in public issues, `[pub]` published, `[est]` our estimate.

use serde::Deserialize;

/// What one parameter is and may be, as text for a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, with the unit last.
    pub name: &'static str,
    /// What it is.
    pub meaning: &'static str,
    /// Its value unless something else is asked for.
    pub default: String,
    /// Its smallest value.
    pub least: String,
    /// Its largest value.
    pub most: String,
    /// Where default and range come from.
    pub source: &'static str,
}

/// A parameter that was given a value that it cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} = {value}; allowed is {least} to {most}")]
pub struct OutOfRange {
    /// The parameter.
    pub name: &'static str,
    /// What it was given.
    pub value: String,
    /// The smallest that is allowed.
    pub least: String,
    /// The largest that is allowed.
    pub most: String,
}

/// Defines a structure of parameters: `name: type = default, least..=most, "source";` each, documented. The structure gets
/// `Default`, `check`, which refuses what is out of range, and `parameters`, which tells of all of them.
#[macro_export]
macro_rules! parameters {
    (
        $(#[$about:meta])*
        pub struct $structure:ident {
            $( $(#[doc = $meaning:literal])+ $name:ident: $type:ty = $default:expr, $range:expr, $source:literal; )+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $structure {
            $( $(#[doc = $meaning])+ pub $name: $type, )+
        }

        impl Default for $structure {
            fn default() -> Self {
                Self { $( $name: $default, )+ }
            }
        }

        impl $structure {
            /// Refuses the first parameter that is out of its range.
            pub fn check(&self) -> Result<(), $crate::parameters::OutOfRange> {
                $(
                    let range: std::ops::RangeInclusive<$type> = $range;
                    if !range.contains(&self.$name) {
                        return Err($crate::parameters::OutOfRange {
                            name: stringify!($name),
                            value: self.$name.to_string(),
                            least: range.start().to_string(),
                            most: range.end().to_string(),
                        });
                    }
                )+
                Ok(())
            }

            /// Every parameter, in the order of definition.
            pub fn parameters() -> Vec<$crate::parameters::Parameter> {
                let default = Self::default();
                vec![ $( {
                    let range: std::ops::RangeInclusive<$type> = $range;
                    $crate::parameters::Parameter {
                        name: stringify!($name),
                        meaning: concat!($($meaning),+).trim_start(),
                        default: default.$name.to_string(),
                        least: range.start().to_string(),
                        most: range.end().to_string(),
                        source: $source,
                    }
                } ),+ ]
            }
        }
    };
}

parameters! {
    /// How long things take on the device. All times are in nanoseconds of the simulated timeline.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Timing {
        /// Longest time for which one context holds the compute engine while another wants it.
        slice_ns: u64 = 2_000_000, 300_000..=5_000_000,
            "RM's default is 1.024 ms [src]; \"a few ms\" (nvshare), \"a few hundred µs\" (LithOS) [pub]";
        /// Switch that interrupts a kernel.
        switch_preemptive_ns: u64 = 60_000, 20_000..=200_000, "XSched 32 µs, GPreempt < 40 µs [pub]";
        /// Switch of an engine that had run empty.
        switch_voluntary_ns: u64 = 20_000, 5_000..=60_000, "[est]";
        /// From the call of a launch to the moment its command can start.
        launch_latency_ns: u64 = 4_000, 2_000..=10_000, "[est]";
        /// Commands that one stream's queue holds; who submits one more waits.
        queue_depth: u64 = 1_024, 16..=4_096,
            "about 1000 launches before one waits [iss]; times 4 by CUDA_SCALE_LAUNCH_QUEUES [pub]";
        /// Kernels of one context that can be resident at once.
        kernels_resident_max: u32 = 128, 1..=128, "CUDA C++ programming guide, most compute capabilities [pub]";
        /// Fixed part of a kernel's time: filling and draining the SMs.
        kernel_fixed_ns: u64 = 1_500, 0..=3_000, "[est]";
        /// Spread of a kernel's duration: σ of its logarithm.
        kernel_sigma: f64 = 0.03, 0.0..=0.3, "[est]";
        /// Cycles between two instructions of one warp when it has the SM to itself.
        instruction_latency_cycles: f64 = 6.0, 4.0..=20.0,
            "4 for dependent arithmetic since Volta (Jia et al. 2018, \"Dissecting the NVIDIA Volta GPU architecture via microbenchmarking\") [pub]; the rest, for memory, [est]";
        /// Time between two steps of the SM clock; 0: it is steady.
        clock_step_pause_ns: u64 = 0, 0..=60_000_000_000, "[est]";
        /// Largest step of the SM clock to either side of its nominal speed, as a part of it.
        clock_step_part: f64 = 0.3, 0.0..=0.5, "[est]";
        /// Fixed part of a copy between host and device.
        copy_latency_ns: u64 = 8_000, 2_000..=20_000, "[est]";
        /// Fixed part of a memset or of a copy inside the device.
        memset_latency_ns: u64 = 2_000, 1_000..=5_000, "[est]";
        /// Fixed part of a graph launch.
        graph_launch_ns: u64 = 3_000, 2_000..=10_000, "[est]";
        /// Part of a graph launch that each node adds.
        graph_launch_per_node_ns: u64 = 10, 0..=100, "[est]";
        /// Between the end of a graph node and the start of one that depends on it.
        graph_node_gap_ns: u64 = 1_000, 0..=10_000, "[est]";
        /// From a host function's turn in its stream to the moment the process is told to call it.
        host_call_latency_ns: u64 = 50_000, 0..=200_000, "about 100 µs until it runs [iss], of which the host's wake-up is a part";
        /// An event's time is a multiple of this.
        event_resolution_ns: u64 = 500, 1..=1_000, "cuEventElapsedTime: about 0.5 µs [pub]";
        /// Time that one utilization sample covers.
        sample_period_ns: u64 = 10_000_000_000 / 72, 100_000_000..=1_000_000_000,
            "72 samples in 10 s [src]; \"1/6 to 1 second\" (NVML, nvmlUtilization_t) [pub]";
        /// How much later than its period says a utilization sample may be taken. Were it 0, the samples would beat with the
        /// slices, which are as regular as the model makes them.
        sample_jitter_ns: u64 = 4_000_000, 0..=10_000_000, "[est]: a tick of the kernel's timers, 1 to 10 ms";
        /// Utilization samples that the driver keeps.
        samples_kept: u64 = 72, 1..=128, "[src]";
        /// From the death of a process to the moment its queue and memory are gone.
        teardown_ns: u64 = 10_000_000, 0..=100_000_000, "[est]";
        /// Seed of everything random.
        seed: u64 = 1, 0..=u64::MAX, "–";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_in_its_range() {
        assert_eq!(Timing::default().check(), Ok(()));
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_name_value_and_range() {
        let timing = Timing {
            slice_ns: 5_000_001,
            ..Timing::default()
        };
        let refusal = timing.check().unwrap_err().to_string();
        assert_eq!(refusal, "slice_ns = 5000001; allowed is 300000 to 5000000");
        let timing = Timing {
            kernel_sigma: f64::NAN,
            ..Timing::default()
        };
        assert_eq!(timing.check().unwrap_err().name, "kernel_sigma");
    }

    #[test]
    fn the_table_says_what_a_parameter_is_and_where_it_comes_from() {
        let parameters = Timing::parameters();
        let slice = &parameters[0];
        assert_eq!(
            (slice.name, slice.default.as_str()),
            ("slice_ns", "2000000")
        );
        assert!(
            slice.meaning.starts_with("Longest time"),
            "{}",
            slice.meaning
        );
        assert!(
            parameters
                .iter()
                .all(|parameter| !parameter.source.is_empty())
        );
    }
}
