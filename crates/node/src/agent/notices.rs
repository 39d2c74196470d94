//! Notices of changes in directories, through one inotify instance for the whole agent.
//!
//! A notice only says "look again": several may come as one, and after an overflow every directory is noticed.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mainstay_runtime::Tasks;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// Watches directories; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Notices(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inotify: AsyncFd<OwnedFd>,
    watches: Mutex<HashMap<i32, Watched>>,
}

#[derive(Debug)]
struct Watched {
    sender: watch::Sender<()>,
    holders: usize,
}

/// Notices of one directory, as long as this lives.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    number: i32,
    /// Tells whether the number is still ours: the kernel gives it anew once a directory has gone.
    sender: watch::Sender<()>,
    receiver: watch::Receiver<()>,
}

impl Notices {
    /// Starts to read notices. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the user has no inotify instance left.
    pub(crate) fn start(tasks: &Tasks) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that may close their descriptor; OwnedFd never does"
        )]
        let inotify = AsyncFd::new(inotify)?;
        let shared = Arc::new(Shared { inotify, watches: Mutex::default() });
        let notices = Self(shared.clone());
        tasks.essential("notices", |stop| async move {
            tokio::select! {
                () = stop.cancelled() => {}
                result = shared.read() => if let Err(error) = result {
                    tracing::error!(%error, "reading notices of directories failed");
                },
            }
        });
        Ok(notices)
    }

    /// Watches a directory: its files, not those of directories in it.
    ///
    /// # Errors
    /// When it is not there, or the user has no watch left.
    pub(crate) fn watch(&self, dir: &Path) -> io::Result<Watch> {
        let wanted = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let mut watches = self.0.lock();
        // The kernel gives the same number for the same directory.
        let number = inotify::add_watch(&self.0.inotify, dir, wanted)?;
        let watched = watches.entry(number).or_insert_with(|| Watched { sender: watch::Sender::new(()), holders: 0 });
        watched.holders += 1;
        let sender = watched.sender.clone();
        Ok(Watch { shared: self.0.clone(), number, receiver: sender.subscribe(), sender })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Watched>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.try_io(|inotify| self.drain(inotify.get_ref())) {
                Ok(drained) => drained?,
                Err(_would_block) => {}
            }
        }
    }

    /// Passes on what is there to be read; ends with `WouldBlock`.
    fn drain(&self, inotify: &OwnedFd) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        loop {
            let event = reader.next()?;
            let mut watches = self.lock();
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                watches.values().for_each(|watched| watched.sender.send_replace(()));
            } else if event.events().contains(ReadFlags::IGNORED) {
                // The directory has gone, and its number may be given to another; its watchers hear of it once more.
                if let Some(watched) = watches.remove(&event.wd()) {
                    watched.sender.send_replace(());
                }
            } else if let Some(watched) = watches.get(&event.wd()) {
                watched.sender.send_replace(());
            }
        }
    }
}

impl Watch {
    /// The next notice; pending for ever once the directory has gone. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.shared.lock();
        let Some(watched) = watches.get_mut(&self.number) else { return };
        if !watched.sender.same_channel(&self.sender) {
            return;
        }
        watched.holders -= 1;
        if watched.holders == 0 {
            watches.remove(&self.number);
            // The kernel drops it by itself when the directory goes.
            inotify::remove_watch(&self.shared.inotify, self.number).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_change_is_noticed_by_every_watch_of_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let notices = Notices::start(&tasks).unwrap();
        let mut first = notices.watch(dir.path()).unwrap();
        let mut second = notices.watch(dir.path()).unwrap();
        let mut elsewhere = notices.watch(other.path()).unwrap();
        std::fs::write(dir.path().join("x"), "1").unwrap();
        let deadline = Duration::from_secs(10);
        timeout(deadline, first.changed()).await.unwrap();
        timeout(deadline, second.changed()).await.unwrap();
        drop(first);
        while timeout(Duration::from_millis(20), second.changed()).await.is_ok() {}
        std::fs::write(dir.path().join("y"), "1").unwrap();
        timeout(deadline, second.changed()).await.unwrap();
        assert!(timeout(Duration::ZERO, elsewhere.changed()).await.is_err());
        tasks.shutdown(deadline).await.unwrap();
    }
}
