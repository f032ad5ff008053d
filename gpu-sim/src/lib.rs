//! A simulated NVIDIA GPU shared by the processes of one machine.
