//! The checkpoint's store as the driver uses it: what may pass by itself is tried again.
//!
//! A full disk and a bucket that doesn't answer pass by themselves: the driver takes in nothing more, says why, and tries
//! again. What a failed attempt left behind, or may still bring about, is settled by the next one, which finds the name taken
//! and reads what stands there (X1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::patience::{Patience, Waiting};
use crate::error::{Error, Result};
use crate::store::{Put, Store};

/// A store whose operations end well, or for good, or when the time for draining is over. Until it has answered once
/// nothing is tried again: a start that can't reach it says so and ends.
#[derive(Debug)]
pub(super) struct PatientStore {
    inner: Arc<dyn Store>,
    waiting: Waiting,
    reached: AtomicBool,
}

impl PatientStore {
    pub(super) fn new(inner: Arc<dyn Store>, waiting: Waiting) -> Self {
        Self {
            inner,
            waiting,
            reached: AtomicBool::new(false),
        }
    }

    /// What came of one attempt: the end, or another attempt.
    async fn after<T>(&self, done: Result<T>, what: &str, path: &str, patience: &mut Patience) -> Option<Result<T>> {
        let error = match done {
            Err(error) if error.is_transient() && self.reached.load(Ordering::Relaxed) => error,
            Err(error) => return Some(Err(error)),
            Ok(done) => {
                self.reached.store(true, Ordering::Relaxed);
                return Some(Ok(done));
            }
        };
        let record = record(path);
        tracing::warn!(
            path,
            error = error.chain(),
            retry_ms = u64::try_from(patience.next().as_millis()).unwrap_or(u64::MAX),
            "{record} could not be {what} the checkpoint; nothing is lost, intake waits"
        );
        if patience.wait().await {
            return None;
        }
        let text = format!("{record} ({path}) could not be {what} the checkpoint within drain_timeout");
        Some(Err(Error::with_source(error.kind(), text, error)))
    }
}

/// What a path of the checkpoint holds, in words.
fn record(path: &str) -> &'static str {
    match path.split('/').next() {
        Some("plans") => "the plan",
        Some("commits") => "the commit record",
        Some("snapshots") => "the snapshot",
        Some("losses") => "the loss record",
        Some("epochs") => "the epoch",
        Some("state") => "the keyed state",
        _ => "a record",
    }
}

#[async_trait]
impl Store for PatientStore {
    async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<Put> {
        let mut patience = self.waiting.patience();
        loop {
            let done = self.inner.put_new(path, bytes.clone()).await;
            if let Some(end) = self.after(done, "written to", path, &mut patience).await {
                return end;
            }
        }
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let mut patience = self.waiting.patience();
        loop {
            let done = self.inner.read(path).await;
            if let Some(end) = self.after(done, "read from", path, &mut patience).await {
                return end;
            }
        }
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let mut patience = self.waiting.patience();
        loop {
            let done = self.inner.list(folder).await;
            if let Some(end) = self.after(done, "read from", folder, &mut patience).await {
                return end;
            }
        }
    }

    async fn newest(&self, folder: &str) -> Result<u64> {
        let mut patience = self.waiting.patience();
        loop {
            let done = self.inner.newest(folder).await;
            if let Some(end) = self.after(done, "read from", folder, &mut patience).await {
                return end;
            }
        }
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let mut patience = self.waiting.patience();
        loop {
            let done = self.inner.delete(path).await;
            if let Some(end) = self.after(done, "removed from", path, &mut patience).await {
                return end;
            }
        }
    }

    async fn probe(&self) -> Result<()> {
        self.inner.probe().await
    }

    fn failed_put_may_come_late(&self) -> bool {
        self.inner.failed_put_may_come_late()
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::error::Kind;
    use crate::store::LocalStore;
    use crate::time::SystemClock;
    use tokio::sync::watch;

    /// A store that fails as often as it is told, and does what was asked all the same where `late`.
    #[derive(Debug)]
    struct Failing {
        inner: LocalStore,
        failures: Mutex<u32>,
        late: bool,
    }

    impl Failing {
        fn fails(&self) -> Result<()> {
            let mut left = self.failures.lock().expect("lock");
            if *left == 0 {
                return Ok(());
            }
            *left -= 1;
            Err(Error::new(Kind::Unavailable, "gone"))
        }
    }

    #[async_trait]
    impl Store for Failing {
        async fn put_new(&self, path: &str, bytes: Vec<u8>) -> Result<Put> {
            if self.late {
                let put = self.inner.put_new(path, bytes).await?;
                return self.fails().map(|()| put);
            }
            self.fails()?;
            self.inner.put_new(path, bytes).await
        }
        async fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
            self.fails()?;
            self.inner.read(path).await
        }
        async fn list(&self, folder: &str) -> Result<Vec<String>> {
            self.fails()?;
            self.inner.list(folder).await
        }
        async fn delete(&self, path: &str) -> Result<()> {
            self.fails()?;
            self.inner.delete(path).await
        }
        async fn probe(&self) -> Result<()> {
            self.fails()
        }
        fn location(&self) -> String {
            self.inner.location()
        }
    }

    fn patient(failures: u32, late: bool) -> (tempfile::TempDir, PatientStore, Arc<Failing>, watch::Sender<bool>) {
        let folder = tempfile::tempdir().expect("temp dir");
        let inner = Arc::new(Failing {
            inner: LocalStore::new(folder.path()),
            failures: Mutex::new(failures),
            late,
        });
        let (stop, stopped) = watch::channel(false);
        let waiting = Waiting::on(Arc::new(SystemClock::default()), stopped, Duration::ZERO);
        let store = PatientStore::new(Arc::<Failing>::clone(&inner), waiting);
        (folder, store, inner, stop)
    }

    #[tokio::test]
    async fn what_passes_by_itself_is_waited_for_once_the_store_has_answered() {
        let (_folder, store, inner, _stop) = patient(1, false);
        assert_eq!(
            store.read("app.json").await.expect_err("not reached").kind(),
            Kind::Unavailable
        );
        assert_eq!(store.read("app.json").await.expect("reached"), None);
        *inner.failures.lock().expect("lock") = 2;
        assert_eq!(store.put_new("a/b", b"x".to_vec()).await.expect("put"), Put::Created);
        *inner.failures.lock().expect("lock") = 1;
        assert_eq!(store.list("a").await.expect("list"), ["b"]);
    }

    #[tokio::test]
    async fn x01_a_put_that_was_done_and_not_answered_is_recognised_as_ours() {
        let (_folder, store, inner, _stop) = patient(0, true);
        store.read("app.json").await.expect("reached");
        *inner.failures.lock().expect("lock") = 1;
        let checkpoint = Checkpoint::new(Arc::new(store));
        // The second attempt finds the name taken; the nonce tells that it was taken by the first. A foreign one would give 3.
        assert_eq!(checkpoint.claim_epoch(1, "me", 0).await.expect("claim"), 2);
    }

    #[tokio::test]
    async fn the_end_of_draining_ends_it() {
        let (_folder, store, inner, stop) = patient(0, false);
        store.read("app.json").await.expect("reached");
        *inner.failures.lock().expect("lock") = u32::MAX;
        stop.send_replace(true);
        let error = store.put_new("plans/1", Vec::new()).await.expect_err("drained");
        assert!(
            error.chain().contains("the plan (plans/1) could not be written"),
            "{}",
            error.chain()
        );
    }
}
