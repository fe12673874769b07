//! What a process has used, from the kernel's own books.

#![expect(
    unsafe_code,
    reason = "wait4 and the CPU clock of another process have no safe wrapper in our dependencies"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// What a process used from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time in user mode, all threads.
    pub(crate) user: Duration,
    /// CPU time in the kernel on its behalf, all threads.
    pub(crate) system: Duration,
    /// Largest resident memory in bytes. A process counts from its fork on, so this is never below what the process
    /// that started it held at that moment.
    pub(crate) peak_bytes: u64,
}

/// Waits for the end of the child `pid` and takes it from the process table.
///
/// # Errors
/// The system's, as where `pid` is no child of this process or has been waited for.
pub(crate) fn wait(pid: u32) -> io::Result<(ExitStatus, Usage)> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to live places of the right types.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if waited == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: every bit pattern is a valid rusage, and it was zeroed before wait4 filled it.
    let usage = unsafe { usage.assume_init() };
    let usage = Usage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        // Linux counts in KiB.
        peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    };
    Ok((ExitStatus::from_raw(status), usage))
}

/// CPU time, user and system, that all threads of a living process have used so far.
///
/// # Errors
/// The system's, as where there is no such process.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock = 0;
    // SAFETY: the pointer is to a live place of the right type.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    self::clock(clock)
}

/// CPU time, user and system, that the calling thread has used so far.
///
/// # Errors
/// The system's.
pub(crate) fn thread_cpu_time() -> io::Result<Duration> {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live place of the right type.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    ))
}

fn duration(time: libc::timeval) -> Duration {
    let micros = i128::from(time.tv_sec) * 1_000_000 + i128::from(time.tv_usec);
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::process::Command;

    use super::*;

    fn shell(script: &str) -> u32 {
        Command::new("sh").args(["-c", script]).spawn().unwrap().id()
    }

    #[test]
    fn a_busy_child_is_charged_and_an_idle_one_is_not() {
        let (status, busy) = wait(shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exit 7")).unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(busy.user >= Duration::from_millis(50), "{busy:?}");
        let (status, idle) = wait(shell("sleep 0.3")).unwrap();
        assert!(status.success());
        assert!(idle.user + idle.system < Duration::from_millis(50), "{idle:?}");
        assert!((500_000..1 << 30).contains(&idle.peak_bytes), "{idle:?}");
    }

    #[test]
    fn the_cpu_clock_of_a_process_runs_with_its_work() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for n in 0..50_000_000_u64 {
            sum = sum.wrapping_add(black_box(n));
        }
        black_box(sum);
        let after = cpu_time(std::process::id()).unwrap();
        assert!(after - before >= Duration::from_millis(5), "{before:?} {after:?}");
    }

    #[test]
    fn a_thread_is_not_charged_with_the_work_of_another() {
        let work = || {
            let before = thread_cpu_time().unwrap();
            let mut sum = 0_u64;
            for n in 0..50_000_000_u64 {
                sum = sum.wrapping_add(black_box(n));
            }
            black_box(sum);
            thread_cpu_time().unwrap() - before
        };
        let before = thread_cpu_time().unwrap();
        let theirs = std::thread::spawn(work).join().unwrap();
        let own = thread_cpu_time().unwrap() - before;
        assert!(
            theirs >= Duration::from_millis(5) && own < theirs / 2,
            "{own:?} {theirs:?}"
        );
    }

    #[test]
    fn a_process_that_is_no_child_is_an_error() {
        assert!(wait(std::process::id()).is_err());
        assert!(cpu_time(u32::MAX / 2 - 1).is_err());
    }
}
