//! What the help of each command ends with.

pub(super) const WATCH_EXAMPLES: &str = "\
Examples:
  cuda-hook sim watch
  cuda-hook sim watch --wait --json --every 100ms > books.jsonl &
  cuda-hook run --sim t4 -- python3 train.py       and books.jsonl is whole when it ends

Totals count from the machine's start: what happened between two lines is their difference.";

pub(super) const COMMAND_EXAMPLES: &str = "\
Examples:
  cuda-hook doctor                                       is this machine able to enforce?
  cuda-hook run --memory 4GiB --sm 30 -- python3 train.py
  cuda-hook run --memory 4GiB --sm 30 --sim t4 -- python3 train.py      without a GPU
  cuda-hook status                                       what every container has and uses
  cuda-hook top                                          the same, live
  cuda-hook set trainer-7 --memory 6GiB                  change it while it runs
  cuda-hook agent                                        metrics of the node, for Prometheus

Exit status: 0 done, 1 failed, 2 wrong usage; of `run`, the program's own.";

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  cuda-hook run --memory 2GiB --sm 30 -- python3 train.py
      2 GiB of each GPU, 30 % of its SM time and never more
  cuda-hook run --sm 30 --sm-max 60 --container trainer-7 -- ./train --epochs 3
      30 % for sure, 60 % while the others are idle, under a name of your own
  cuda-hook run --memory 8GiB --memory-soft 4GiB -- python3 train.py
      4 GiB for sure, 4 GiB more while nobody else is guaranteed them
  cuda-hook run --memory GPU-7c6c3c6e=8GiB,4GiB -- ./infer
      8 GiB of the GPU whose UUID begins so, 4 GiB of every other
  cuda-hook run --memory 2GiB --sim t4 -- python3 train.py
      the same on a simulated T4
  cuda-hook run --memory 2GiB --sim 2xa100 -- python3 train.py
      on a machine with two simulated A100s

Limits may only lower what a configuration file sets ($CUDA_HOOK_CONFIG, else
/etc/cuda-hook/config.toml). What LD_PRELOAD names already stays, behind the library.
  CUDA_HOOK_DIR      folder of the shared state
  CUDA_HOOK_LOG      off, error, warn, info, debug, trace: what the library says on stderr
  CUDA_HOOK_LIBRARY  path of another libcuda_hook.so than the one beside this command

Exit status: the program's own; 2 wrong usage, 126 the program cannot be executed,
127 it was not found.";

pub(super) const STATUS_EXAMPLES: &str = "\
Examples:
  cuda-hook status
  cuda-hook status --json
  CUDA_HOOK_DIR=/dev/shm/mine cuda-hook status";

pub(super) const TOP_EXAMPLES: &str = "\
Examples:
  cuda-hook top
  cuda-hook top --sort gpu --every 250ms
  cuda-hook top --once > frame.txt";

pub(super) const SET_EXAMPLES: &str = "\
Examples:
  cuda-hook set trainer-7 --memory 6GiB
  cuda-hook set trainer-7 --memory 8GiB --memory-soft 4GiB --spill
  cuda-hook set trainer-7 --sm 20 --sm-max 80
  cuda-hook set trainer-7 --memory GPU-7c6c3c6e=8GiB       one of its GPUs

Exit status: 0 changed, 1 no such container, or none of its programs runs, 2 wrong usage: then nothing was changed.";

pub(super) const CDI_EXAMPLES: &str = "\
Examples:
  cuda-hook cdi generate small --config /etc/cuda-hook/slices/small.toml --output /etc/cdi/cuda-hook-small.json
  podman run --device cuda-hook/slice=small IMAGE python3 train.py";

pub(super) const OCI_HOOK_EXAMPLES: &str = "\
Examples:
  cuda-hook oci-hook config > /usr/share/containers/oci/hooks.d/cuda-hook.json
  podman run --annotation cuda-hook.memory=4GiB --annotation cuda-hook.sm=30 IMAGE python3 train.py

Exit status: 0 the container may start, 1 it must not, 2 wrong usage.";

pub(super) const AGENT_EXAMPLES: &str = "\
Examples:
  cuda-hook agent
  cuda-hook agent --dir /run/cuda-hook --listen 0.0.0.0:9402
  cuda-hook agent --listen none                            no network: the socket has the metrics, too
  curl http://127.0.0.1:9402/metrics
  curl --unix-socket /run/cuda-hook-agent/socket http://localhost/status
  curl --unix-socket /run/cuda-hook-agent/socket http://localhost/set --json '{\"container\": \"trainer-7\", \"memory\": \"6GiB\"}'

Exit status: 0 ended by a signal, 1 failed, 2 wrong usage.";

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(cuda-hook completions bash)
  cuda-hook completions zsh > ~/.zfunc/_cuda-hook
  cuda-hook completions fish > ~/.config/fish/completions/cuda-hook.fish";

pub(super) const MANUAL_EXAMPLES: &str = "\
Examples:
  cuda-hook manual ~/.local/share/man/man1
  man cuda-hook-run";

pub(super) const DOCTOR_EXAMPLES: &str = "\
Examples:
  cuda-hook doctor
  cuda-hook doctor ./train              is this program one that a preload can enter?
  cuda-hook doctor --sim t4 --json";
