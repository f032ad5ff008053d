//! What is known of a node, as Prometheus reads it: OpenMetrics 1.0, or Prometheus's own text format 0.0.4.

mod families;
mod format;

use std::collections::BTreeMap;
use std::fmt;

use limiter::sample::Sample;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::failure::Failure;
use crate::inject::labels::Labels;
use families::{Family, Kind, Series};
pub(crate) use format::Format;

/// All of it, at one moment.
#[derive(Debug)]
pub(crate) struct Exposition {
    pub(crate) sample: Sample,
    /// Of which pod a container is, by its name.
    pub(crate) pods: BTreeMap<String, Labels>,
    /// Places of the dead that the agent has freed.
    pub(crate) reaped: u64,
}

impl Exposition {
    /// The whole text.
    pub(crate) fn text(self, format: Format) -> Result<String, Failure> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut openmetrics = String::new();
        text::encode(&mut openmetrics, &registry).map_err(Failure::failed)?;
        Ok(format.of(openmetrics))
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for family in families::all() {
            encode(&mut encoder, family, &family.series(self))?;
        }
        Ok(())
    }
}

fn encode(encoder: &mut DescriptorEncoder, family: &Family, series: &[Series]) -> fmt::Result {
    let unit = family.unit.as_openmetrics();
    let mut metric = encoder.encode_descriptor(
        family.name,
        family.help,
        unit.as_ref(),
        family.kind.as_openmetrics(),
    )?;
    for (labels, value) in series {
        let mut one = metric.encode_family(labels)?;
        match family.kind {
            Kind::Counter => {
                one.encode_counter(value, None::<&Exemplar<families::LabelSet, f64>>)?
            }
            Kind::Gauge => one.encode_gauge(value)?,
        }
    }
    Ok(())
}

/// GPU time charged, as it never falls: the ledger takes back what a launch turned out to take less than was thought, and Prometheus takes
/// any fall for a new beginning.
#[derive(Debug, Default)]
pub(crate) struct Highest(BTreeMap<(String, String), u64>);

impl Highest {
    /// Puts the highest that was seen in the place of less. Less than half of it is of a ledger that was made anew.
    pub(crate) fn keep(&mut self, sample: &mut Sample) {
        let mut now = BTreeMap::new();
        for container in &mut sample.containers {
            for device in &mut container.devices {
                let key = (container.container.clone(), device.device_uuid.clone());
                let (before, charged) = (self.0.get(&key), &mut device.charged_ns_total);
                if let Some(before) = before.filter(|before| *charged >= **before / 2) {
                    *charged = (*charged).max(*before);
                }
                now.insert(key, *charged);
            }
        }
        self.0 = now;
    }
}

#[cfg(test)]
mod tests;
