//! What a run was like, from the model's own books.

use gpu_sim::command::EngineUsage;
use std::ops::Range;

/// Busy time of the engine between two readings.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// When it ended, in ns.
    pub end_ns: u64,
    /// Time for which each container's work had the engine, in ns.
    pub busy_ns: Vec<u64>,
}

/// One launch, as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchRecord {
    /// When the program wanted it, in ns.
    pub wanted_ns: u64,
    /// When the driver was called, in ns.
    pub called_ns: u64,
    /// When the driver had taken it, in ns.
    pub taken_ns: u64,
    /// When it completed on the device, in ns; `None`: not within the run.
    pub ended_ns: Option<u64>,
    /// What two events around it said, in ns, where the controller had it timed and saw its end.
    pub timed_ns: Option<u64>,
}

/// What one process did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessReport {
    /// Launches that the driver took.
    pub launches: u64,
    /// Kernels completed, those of graphs included.
    pub kernels: u64,
    /// Iterations that the program has seen to their end, as far as it waits for them.
    pub iterations: u64,
    /// Of each such iteration, from the request's arrival, or else its beginning, to the return of the wait, in ns.
    pub latencies_ns: Vec<u64>,
    /// Time for which launches waited for the controller, in ns.
    pub held_ns: u64,
    /// The longest of those waits, in ns.
    pub held_ns_max: u64,
    /// Processor time of the helper's looks and of recording events for it, in ns.
    pub helper_cpu_ns: u64,
    /// Its launches, if they are traced, in order.
    pub launch_records: Vec<LaunchRecord>,
}

/// What a run was like.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Busy time, window by window.
    pub windows: Vec<Window>,
    /// Length of each window, in ns.
    pub window_ns: u64,
    /// What the device's engine did.
    pub engine: EngineUsage,
    /// By process of the scenario.
    pub processes: Vec<ProcessReport>,
    /// Events that the run consisted of.
    pub events: u64,
}

impl Report {
    fn within(&self, range_ns: Range<u64>) -> impl Iterator<Item = &Window> {
        self.windows
            .iter()
            .filter(move |window| window.end_ns > range_ns.start && window.end_ns <= range_ns.end)
    }

    /// Busy time of a container in whole windows of this range, in ns.
    pub fn busy_ns(&self, container: usize, range_ns: Range<u64>) -> u64 {
        self.within(range_ns)
            .map(|window| window.busy_ns[container])
            .sum()
    }

    /// Part of the time for which a container's work had the engine.
    pub fn share(&self, container: usize, range_ns: Range<u64>) -> f64 {
        let wall_ns = self.within(range_ns.clone()).count() as u64 * self.window_ns;
        self.busy_ns(container, range_ns) as f64 / wall_ns as f64
    }

    /// Part of the time for which the engine was busy.
    pub fn busy(&self, range_ns: Range<u64>) -> f64 {
        let containers = 0..self
            .windows
            .first()
            .map_or(0, |window| window.busy_ns.len());
        containers
            .map(|container| self.share(container, range_ns.clone()))
            .sum()
    }

    /// A container's part of what all containers used.
    pub fn part(&self, container: usize, range_ns: Range<u64>) -> f64 {
        self.share(container, range_ns.clone()) / self.busy(range_ns)
    }

    /// A container's share in one stretch of this length after the other; it is a multiple of the windows', and what is left over at the end
    /// is left out.
    pub fn shares(&self, container: usize, range_ns: Range<u64>, length_ns: u64) -> Vec<f64> {
        let windows: Vec<&Window> = self.within(range_ns).collect();
        let count = (length_ns / self.window_ns).max(1) as usize;
        let busy_ns = |stretch: &[&Window]| -> u64 {
            stretch.iter().map(|window| window.busy_ns[container]).sum()
        };
        let wall_ns = count as f64 * self.window_ns as f64;
        let stretches = windows.chunks_exact(count);
        stretches
            .map(|stretch| busy_ns(stretch) as f64 / wall_ns)
            .collect()
    }

    /// Standard deviation of a container's share from window to window.
    pub fn sigma(&self, container: usize, range_ns: Range<u64>) -> f64 {
        self.sigma_of(container, range_ns, self.window_ns)
    }

    /// Standard deviation of a container's share from one stretch of this length to the next.
    pub fn sigma_of(&self, container: usize, range_ns: Range<u64>, length_ns: u64) -> f64 {
        let mean = self.share(container, range_ns.clone());
        let shares = self.shares(container, range_ns, length_ns);
        let squares = shares.iter().map(|share| (share - mean).powi(2));
        (squares.sum::<f64>() / shares.len() as f64).sqrt()
    }
}

/// The smallest value that at least `part` of all are not above; 0 of none.
pub fn quantile(values: &[u64], part: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_wall_and_parts_of_what_was_busy() {
        let window = |end_ns, busy_ns: [u64; 2]| Window {
            end_ns,
            busy_ns: busy_ns.to_vec(),
        };
        let report = Report {
            windows: vec![
                window(100, [100, 0]),
                window(200, [20, 60]),
                window(300, [40, 40]),
            ],
            window_ns: 100,
            engine: EngineUsage::default(),
            processes: Vec::new(),
            events: 0,
        };
        let range = 100..300;
        let figures = [
            report.share(0, range.clone()),
            report.busy(range.clone()),
            report.part(0, range.clone()),
            report.sigma(0, range),
        ];
        for (figure, wanted) in figures.into_iter().zip([0.3, 0.8, 0.375, 0.1]) {
            assert!((figure - wanted).abs() < 1e-12, "{figure}, not {wanted}");
        }
        assert_eq!(report.shares(0, 0..300, 100), [1.0, 0.2, 0.4]);
        assert_eq!(report.shares(0, 0..300, 200), [0.6]);
        assert_eq!(report.sigma_of(0, 0..200, 200), 0.0);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values = [5, 1, 4, 2, 3];
        assert_eq!(
            [0.2, 0.5, 0.99, 1.0].map(|part| quantile(&values, part)),
            [1, 3, 5, 5]
        );
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
