//! What is asked of a share, and what is wanted.

/// A figure that the evaluation asks for, with one target. Of several runs the worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// Error of the mean share, kernels of 5 µs to 2 ms, any grid, 1 to 8 tenants.
    MeanShort,
    /// The same of 16 and 32 tenants.
    MeanCrowd,
    /// The same of kernels of 5 to 20 ms.
    MeanLong,
    /// The same of kernels of 50 and 200 ms.
    MeanVeryLong,
    /// The same of graphs.
    MeanGraphs,
    /// The same where a tenant's or two tenants' kernels differ in length.
    MeanMixed,
    /// The same where programs wait for each launch, where their host is slow, and where a container has several processes.
    MeanPrograms,
    /// The same of one process's kernels that run side by side.
    MeanStreams,
    /// The same beside neighbours that come and go, are stopped, are killed, or have no controller.
    MeanNeighbours,
    /// Standard deviation of the share from one 100 ms to the next, kernels of at most 2 ms.
    Sigma,
    /// From a join, a leave or a change to where every 100 ms are within 5 points.
    Settle,
    /// The same from a stop, a continuation or a kill.
    SettleFaults,
    /// Longest wait of a launch for the controller, beyond its time divided by its share.
    Stall,
    /// Weighted Jain index of each second.
    Jain,
    /// What the GPU is used, of what it is used without a controller, where a neighbour rests or is capped.
    IdleUsed,
    /// Added to the 99th percentile of a 2 ms inference within its share by saturating neighbours.
    AddedP99,
    /// Work that a tenant alone with no cap loses to the controller.
    LostAlone,
    /// GPU time that tenants who all want everything lose together, of what they use without a controller.
    LostContended,
    /// Processor time of the thread that watches a process's launches, of one processor.
    Watching,
}

impl Row {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 19] = [
        Self::MeanShort,
        Self::MeanCrowd,
        Self::MeanLong,
        Self::MeanVeryLong,
        Self::MeanGraphs,
        Self::MeanMixed,
        Self::MeanPrograms,
        Self::MeanStreams,
        Self::MeanNeighbours,
        Self::Sigma,
        Self::Settle,
        Self::SettleFaults,
        Self::Stall,
        Self::Jain,
        Self::IdleUsed,
        Self::AddedP99,
        Self::LostAlone,
        Self::LostContended,
        Self::Watching,
    ];

    /// As tables say it.
    pub fn title(self) -> &'static str {
        match self {
            Self::MeanShort => {
                "error of the mean, kernels of 5 µs to 2 ms, grids of 1 to 4000, 1 to 8 tenants"
            }
            Self::MeanCrowd => "… 16 and 32 tenants",
            Self::MeanLong => "… kernels of 5 to 20 ms",
            Self::MeanVeryLong => "… kernels of 50 and 200 ms",
            Self::MeanGraphs => "… graphs of 2 and 8 ms",
            Self::MeanMixed => "… mixed lengths",
            Self::MeanPrograms => {
                "… programs that wait, slow hosts, several processes of a container"
            }
            Self::MeanStreams => "… kernels of one process side by side",
            Self::MeanNeighbours => {
                "… beside neighbours that come and go, stop, die, or have no controller"
            }
            Self::Sigma => "σ in windows of 100 ms, kernels of up to 2 ms",
            Self::Settle => "settled to ±5 points after a join, leave or change",
            Self::SettleFaults => "… after a SIGSTOP, SIGCONT or kill",
            Self::Stall => "longest stall of a launch, beyond kernel time / share",
            Self::Jain => "weighted Jain index of a second",
            Self::IdleUsed => "idle capacity used, of native",
            Self::AddedP99 => "p99 added to a 2 ms inference within its share",
            Self::LostAlone => "throughput lost alone, without a cap",
            Self::LostContended => "throughput lost contended, all tenants together",
            Self::Watching => "processor time of a process's watching thread",
        }
    }

    /// A word for files and code.
    pub fn key(self) -> &'static str {
        match self {
            Self::MeanShort => "mean_short_points",
            Self::MeanCrowd => "mean_crowd_points",
            Self::MeanLong => "mean_long_points",
            Self::MeanVeryLong => "mean_very_long_points",
            Self::MeanGraphs => "mean_graphs_points",
            Self::MeanMixed => "mean_mixed_points",
            Self::MeanPrograms => "mean_programs_points",
            Self::MeanStreams => "mean_streams_points",
            Self::MeanNeighbours => "mean_neighbours_points",
            Self::Sigma => "sigma_points",
            Self::Settle => "settle_ms",
            Self::SettleFaults => "settle_faults_ms",
            Self::Stall => "stall_ms",
            Self::Jain => "jain",
            Self::IdleUsed => "idle_used_percent",
            Self::AddedP99 => "added_p99_ms",
            Self::LostAlone => "lost_alone_percent",
            Self::LostContended => "lost_contended_percent",
            Self::Watching => "watching_percent",
        }
    }

    /// The unit of its figures, with the space before it; nothing of the index.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Settle | Self::SettleFaults | Self::Stall | Self::AddedP99 => " ms",
            Self::IdleUsed | Self::LostAlone | Self::LostContended | Self::Watching => " %",
            Self::Jain => "",
            _ => " points",
        }
    }

    /// What is wanted, and what would be better still; `None`: published without a target.
    pub fn targets(self) -> Option<(f64, f64)> {
        Some(match self {
            Self::MeanShort | Self::MeanGraphs => (1.5, 0.5),
            Self::MeanLong => (2.0, 1.0),
            Self::MeanMixed => (3.0, 2.0),
            Self::Sigma => (2.0, 1.0),
            Self::Settle => (200.0, 100.0),
            Self::Stall => (20.0, 5.0),
            Self::Jain => (0.995, 0.999),
            Self::IdleUsed => (97.0, 99.0),
            Self::AddedP99 => (4.0, 2.0), // a slice and 2 ms; 2 ms
            Self::LostAlone => (1.0, 0.3),
            Self::LostContended => (2.0, 1.0),
            Self::Watching => (2.0, 1.0),
            Self::MeanCrowd
            | Self::MeanVeryLong
            | Self::MeanPrograms
            | Self::MeanStreams
            | Self::MeanNeighbours
            | Self::SettleFaults => return None,
        })
    }

    /// Whether more is better.
    pub fn is_more_better(self) -> bool {
        matches!(self, Self::Jain | Self::IdleUsed)
    }

    /// The worse of two figures.
    pub fn worse(self, one: f64, other: f64) -> f64 {
        match self.is_more_better() {
            true => one.min(other),
            false => one.max(other),
        }
    }

    /// Whether a figure is as good as this.
    pub fn is_met(self, figure: f64, target: f64) -> bool {
        match self.is_more_better() {
            true => figure >= target,
            false => figure <= target,
        }
    }

    /// A figure as tables say it, without its unit.
    pub fn shown(self, figure: f64) -> String {
        match self {
            Self::Settle | Self::SettleFaults => format!("{figure:.0}"),
            Self::Jain => format!("{figure:.4}"),
            Self::LostAlone | Self::LostContended => format!("{figure:.2}"),
            _ => format!("{figure:.1}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_two_is_the_one_that_misses_first() {
        assert_eq!(Row::Sigma.worse(1.0, 2.0), 2.0);
        assert_eq!(Row::Jain.worse(0.9, 0.99), 0.9);
        assert!(Row::Sigma.is_met(2.0, 2.0) && !Row::Sigma.is_met(2.1, 2.0));
        assert!(Row::IdleUsed.is_met(97.0, 97.0) && !Row::IdleUsed.is_met(96.9, 97.0));
    }
}
