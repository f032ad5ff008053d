//! Whatever is submitted: what holds of every history.

use super::*;
use crate::command::Command::Copy;
use crate::command::CopyDirection::HostToDevice;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Kernel { tenant: usize, us: u64, blocks: u32 },
    Copy { tenant: usize, bytes: u64 },
    Advance { us: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3_usize, 1..5_000_u64, 1..400_u32).prop_map(|(tenant, us, blocks)| Step::Kernel {
            tenant,
            us,
            blocks
        }),
        (0..3_usize, 0..50_000_000_u64).prop_map(|(tenant, bytes)| Step::Copy { tenant, bytes }),
        (1..3_000_u64).prop_map(|us| Step::Advance { us }),
    ];
    prop::collection::vec(step, 1..120)
}

fn play(steps: &[Step]) -> Bench {
    let mut bench = Bench::new(MachineProfile::load("t4").unwrap());
    let tenants = [bench.tenant(), bench.tenant(), bench.tenant()];
    for step in steps {
        match *step {
            Step::Kernel { tenant, us, blocks } => {
                bench.submit(tenants[tenant], Kernel(part_kernel(us * US, blocks)));
            }
            Step::Copy { tenant, bytes } => {
                bench.submit(
                    tenants[tenant],
                    Copy {
                        direction: HostToDevice,
                        bytes,
                    },
                );
            }
            Step::Advance { us } => {
                let now_ns = bench.model.now_ns();
                bench.advance(now_ns + us * US);
            }
        }
    }
    bench.finish();
    bench
}

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_history(steps in steps()) {
        let (mut once, mut twice) = (play(&steps), play(&steps));
        prop_assert_eq!(once.outputs, twice.outputs);
        prop_assert_eq!(once.model.usage(), twice.model.usage());
    }

    #[test]
    fn everything_completes_and_the_engines_time_adds_up(steps in steps()) {
        let mut bench = play(&steps);
        prop_assert!(bench.model.streams.values().all(|stream| stream.queue.is_empty()));
        let engine = bench.model.engine_usage(0).unwrap();
        let busy_ns: u64 = bench.model.usage().iter().map(|row| row.gpu_busy_ns_total).sum();
        prop_assert_eq!(busy_ns, engine.gpu_busy_ns_total);
        prop_assert!(busy_ns + engine.switch_ns_total <= bench.model.now_ns());
    }

    #[test]
    fn it_does_not_matter_how_often_the_model_is_advanced(steps in steps()) {
        let finer: Vec<Step> = steps
            .iter()
            .flat_map(|step| match *step {
                Step::Advance { us } => {
                    let mut parts = vec![Step::Advance { us: 37 }; us as usize / 37];
                    parts.push(Step::Advance { us: us % 37 });
                    parts
                }
                _ => vec![step.clone()],
            })
            .collect();
        prop_assert_eq!(play(&steps).outputs, play(&finer).outputs);
    }
}
