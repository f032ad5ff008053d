//! The companion that opens NVIDIA's libraries for this command: see the crate `cuda-hook-libraries`.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cuda_hook_libraries::Question;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use crate::artefacts;
use crate::doctor::program;
use crate::failure::Failure;

/// NVML wakes each GPU that nobody else has open, which takes a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a companion prints on standard error is kept up to here.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// A running companion. It ends with whoever has it.
#[derive(Debug)]
pub(crate) struct Libraries {
    program: PathBuf,
    child: Child,
    questions: ChildStdin,
    answers: ChildStdout,
    /// In memory, so that nobody has to read it for the companion to go on.
    complaints: File,
    patience: Duration,
}

impl Libraries {
    /// Starts the one that was installed with this command, in this command's environment.
    ///
    /// # Errors
    /// It is not there, or cannot run here.
    pub(crate) fn start() -> Result<Self, Failure> {
        Self::of(artefacts::companion()?, PATIENCE)
    }

    fn of(program: PathBuf, patience: Duration) -> Result<Self, Failure> {
        let started = start(&program);
        let (mut child, complaints) = started.map_err(|error| not_started(&program, &error))?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take());
        let (Some(questions), Some(answers)) = (questions, answers) else {
            return Err(Failure::failed("a program was started without its pipes"));
        };
        Ok(Self {
            program,
            child,
            questions,
            answers,
            complaints,
            patience,
        })
    }

    /// Its answer. Who has got none is to ask no more.
    pub(crate) fn ask<Answer: DeserializeOwned>(
        &mut self,
        question: &Question,
    ) -> Result<Answer, Failure> {
        let line = self.exchange(question);
        let line = line.map_err(|error| self.unanswered(&error))?;
        serde_json::from_slice(&line).map_err(|error| {
            Failure::failed(format_args!(
                "{}: its answer is not understood: {error}; it must be of the same version as this command",
                self.program.display()
            ))
        })
    }

    fn exchange(&mut self, question: &Question) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        self.questions.write_all(&line)?;
        let deadline = Instant::now() + self.patience;
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            wait(&self.answers, deadline)?;
            let mut bytes = [0; 4096];
            match self.answers.read(&mut bytes)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => answer.extend(bytes.iter().take(count)),
            }
        }
        Ok(answer)
    }

    /// Why there was no answer: a companion that has ended says it best itself.
    fn unanswered(&mut self, error: &io::Error) -> Failure {
        let why = match error.kind() {
            ErrorKind::TimedOut => {
                format!("has not answered within {} s", self.patience.as_secs_f64())
            }
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => match self.end() {
                Ok(status) => format!("{status}: {}", self.said()),
                Err(error) => error.to_string(),
            },
            _ => error.to_string(),
        };
        Failure::failed(format_args!("{}: {why}", self.program.display()))
    }

    /// How it ended. One that has closed its pipe and goes on ends now; one that is about to end does so as it would.
    fn end(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// What it has printed on standard error, in one line.
    fn said(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.complaints.rewind().and_then(|()| {
            let mut first = (&self.complaints).take(COMPLAINT_BYTES_MAX);
            first.read_to_end(&mut bytes)
        });
        match read {
            Ok(0) => "it says nothing".to_owned(),
            Ok(_) => String::from_utf8_lossy(&bytes).trim().replace('\n', "; "),
            Err(error) => format!("what it says cannot be read: {error}"),
        }
    }
}

impl Drop for Libraries {
    /// Nothing that it does has to be brought to an end. Where it has ended by itself, there is nothing to kill.
    fn drop(&mut self) {
        drop(self.end());
    }
}

fn start(program: &Path) -> io::Result<(Child, File)> {
    let complaints = File::from(memfd_create("cuda-hook-complaints", MemfdFlags::CLOEXEC)?);
    let child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(complaints.try_clone()?)
        .spawn()?;
    Ok((child, complaints))
}

/// The kernel says "not found" of a program that is there, too, where its loader is not.
fn not_started(program: &Path, error: &io::Error) -> Failure {
    match program::obstacle(program.as_os_str()) {
        Some(obstacle) => Failure::failed(obstacle.found),
        None => Failure::failed(format_args!("cannot start {}: {error}", program.display())),
    }
}

/// Until there is something to read, or an end of it.
fn wait(answers: &ChildStdout, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut wanted = [PollFd::new(answers, PollFlags::IN)];
        match poll(&mut wanted, Some(&left)) {
            Ok(0) => return Err(ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A companion that is a script.
    fn stand_in(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("stand-in");
        test_support::script(&program, &format!("#!/bin/sh\n{text}\n"));
        (folder, program)
    }

    /// What is said where that one is asked.
    fn failure(text: &str, patience: Duration) -> String {
        let (_folder, program) = stand_in(text);
        let mut libraries = Libraries::of(program, patience).unwrap();
        let answer = libraries.ask::<String>(&Question::CLibrary);
        answer.unwrap_err().to_string()
    }

    #[test]
    fn a_companion_answers_as_often_as_it_is_asked() {
        let (_folder, program) = stand_in("while read -r line; do echo '\"2.36\"'; done");
        let mut libraries = Libraries::of(program, PATIENCE).unwrap();
        for _ in 0..2 {
            let answer = libraries.ask::<String>(&Question::CLibrary);
            assert_eq!(answer, Ok("2.36".to_owned()));
        }
    }

    #[test]
    fn a_companion_that_does_not_answer_is_not_waited_for_for_ever() {
        let said = failure("exec sleep 20", Duration::from_millis(50));
        assert!(
            said.ends_with("stand-in: has not answered within 0.05 s"),
            "{said}"
        );
    }

    #[test]
    fn a_companion_that_ends_is_quoted() {
        let said = failure("echo 'no such symbol' >&2; exit 3", PATIENCE);
        assert!(said.ends_with("exit status: 3: no such symbol"), "{said}");
    }

    #[test]
    fn an_answer_that_is_none_is_said_to_be_none() {
        let said = failure("read -r line; echo '{}'", PATIENCE);
        assert!(said.contains("its answer is not understood"), "{said}");
    }

    #[test]
    fn a_companion_without_its_loader_is_told_from_one_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("x.c"), folder.path().join("program"));
        fs::write(&source, "int main(void) { return 0; }").unwrap();
        let mut cc = Command::new("cc");
        let cc = cc
            .arg("-Wl,--dynamic-linker=/no/ld-linux-none.so")
            .arg("-o");
        assert!(cc.args([&program, &source]).status().unwrap().success());
        let told = |program: &Path| {
            let started = Libraries::of(program.to_owned(), PATIENCE);
            started.unwrap_err().to_string()
        };
        let said = told(&program);
        let wanted = "its loader /no/ld-linux-none.so is not on this machine";
        assert!(said.ends_with(wanted), "{said}");
        let missing = told(&folder.path().join("missing"));
        assert!(missing.ends_with("(os error 2)"), "{missing}");
    }
}
