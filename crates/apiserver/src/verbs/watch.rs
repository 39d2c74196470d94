//! `watch`: changes as they are made, as one JSON object per line.
//!
//! Frames come ready-made from the store; only a selector, another form or a sealed kind makes new ones. What is
//! queued goes out in chunks. A watch ends cleanly (the client resumes) at its time, when the server stops, when its
//! reader is too slow, and soon after its right is withdrawn; the first and the last also when its peer does not read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::Response;
use mainstay_store::{Change, ChangeKind, Object, Revision, Scope, StoreError, Watch, WatchEnd};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::catalog::Entry;
use crate::form::Form;
use crate::gate::Permit;
use crate::habits;
use crate::holder::Holder;
use crate::leash::leashed;
use crate::request::Verb;
use crate::respond;
use crate::selector::Selector;
use crate::server::{ApiServer, Call};
use crate::status::{ApiError, ApiResult};
use crate::verbs::list;

/// A peer that takes nothing keeps its watch for so much longer than its time.
const LAST_WORD: Duration = Duration::from_secs(1);
/// About as much of what was there is put into one chunk.
const CHUNK: usize = 64 << 10;
/// Bookmarks also go out this long before the end, so that the client resumes from the newest revision.
const LAST_BOOKMARK: Duration = Duration::from_millis(500);

/// Answers a watch.
///
/// # Errors
/// 400 for parameters that make no sense, 429 at the limits. What is wrong with the revision is said in the stream.
pub(crate) async fn watch(call: &Call<'_>) -> ApiResult<Response<Body>> {
    list::check_parameters(call)?;
    let asked = Asked::read(call)?;
    let form = Form::of(call)?;
    let permit = call.server.gate().enter(call.identity)?;
    let (scope, selector) = list::scope(call)?;
    // A selector that contradicts itself matches nothing: an empty name is nobody's.
    let scope = scope.unwrap_or(Scope { name: Some("".into()), ..call.entry.scope(Some("")) });
    let start = match begin(call, &asked, &scope, &selector).await {
        Ok(start) => start,
        Err(error) if error.code() == 410 => return Ok(respond::json_body(Body::full(error_frame(&error)))),
        Err(error) => return Err(error),
    };
    let stream = Stream::new(call, form, selector, &asked, start, permit);
    let over = Holder::of(call, Verb::Watch).over(call.server.clone(), stream.deadline + LAST_WORD);
    let chunks =
        stream::unfold(stream, |mut stream| async move { stream.next().await.map(|chunk| (Ok(chunk), stream)) });
    Ok(respond::json_body(Body::stream(leashed(call.server.tasks(), chunks, over))))
}

/// The parameters of a watch.
#[derive(Debug)]
struct Asked {
    revision: Revision,
    initial: bool,
    end_of_initial: bool,
    bookmarks: bool,
    life: Duration,
}

impl Asked {
    fn read(call: &Call<'_>) -> ApiResult<Self> {
        let query = call.query;
        let revision = query
            .number::<u64>("resourceVersion")
            .map_err(|error| ApiError::bad_request(format!("Invalid value for the watch: {}", error.message())))?;
        let send = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")).transpose()?;
        if send.is_some() && query.get("resourceVersionMatch") != Some("NotOlderThan") {
            return Err(ApiError::unprocessable(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if send.is_none() && query.get("resourceVersionMatch").is_some() {
            return Err(ApiError::unprocessable(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
                 provided",
            ));
        }
        let most = call.server.limits().watch_life;
        let life = query.number::<u64>("timeoutSeconds")?.filter(|seconds| *seconds > 0);
        Ok(Self {
            revision: Revision(revision.unwrap_or(0)),
            initial: send.unwrap_or(revision.unwrap_or(0) == 0),
            end_of_initial: send == Some(true),
            bookmarks: query.flag("allowWatchBookmarks")?,
            life: life.map_or(most, |seconds| Duration::from_secs(seconds).min(most)),
        })
    }
}

struct Start {
    watch: Watch,
    items: Vec<Arc<Object>>,
    revision: Revision,
}

/// Opens the watch, after a snapshot of what is there when the client wants that first.
async fn begin(call: &Call<'_>, asked: &Asked, scope: &Scope, selector: &Selector) -> ApiResult<Start> {
    let store = call.server.store();
    let current = list::reach(call, asked.revision).await?;
    let (items, revision) = if asked.initial {
        if asked.revision > current {
            return Err(ahead(asked.revision, current));
        }
        let (revision, items) = list::snapshot(call, scope.clone(), selector).await?;
        (items, revision)
    } else {
        let revision = if asked.revision.0 == 0 { store.revision() } else { asked.revision };
        (Vec::new(), revision)
    };
    let watch = store.watch(scope.clone(), revision).await.map_err(|error| match error {
        StoreError::Future { asked, current } => ahead(asked, current),
        error => ApiError::from_store(&error, call.about("")),
    })?;
    Ok(Start { watch, items, revision })
}

/// A revision that was never given out by this history (a restored backup): only a 410 makes every client list again.
fn ahead(asked: Revision, current: Revision) -> ApiError {
    ApiError::expired(format!("too new resource version: {asked} (current {current}); list again"))
}

/// One open watch.
struct Stream {
    server: ApiServer,
    entry: Arc<Entry>,
    form: Form,
    selector: Selector,
    watch: Watch,
    /// What was there and has not been put into frames yet, and the bookmark that follows it.
    initial: VecDeque<Arc<Object>>,
    end_of_initial: Option<Revision>,
    queued: VecDeque<Bytes>,
    bookmarks: bool,
    bookmarked: Revision,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
    /// A Table says only once what its columns are.
    began: bool,
    stop: CancellationToken,
    _permit: Permit,
}

enum Turn {
    Changes(Result<Vec<Arc<Change>>, WatchEnd>),
    Timer,
    Stop,
}

impl Stream {
    fn new(call: &Call<'_>, form: Form, selector: Selector, asked: &Asked, start: Start, permit: Permit) -> Self {
        let now = Instant::now();
        let limits = call.server.limits();
        Self {
            server: call.server.clone(),
            entry: call.entry.clone(),
            form,
            selector,
            watch: start.watch,
            initial: start.items.into(),
            end_of_initial: (asked.end_of_initial && asked.bookmarks).then_some(start.revision),
            queued: VecDeque::new(),
            bookmarks: asked.bookmarks,
            bookmarked: Revision(0),
            next_bookmark: now + limits.bookmark.min(asked.life.saturating_sub(LAST_BOOKMARK)),
            deadline: now + asked.life,
            ended: false,
            began: false,
            stop: call.server.tasks().stopping(),
            _permit: permit,
        }
    }

    /// Queues some more of what was there.
    fn begin(&mut self) {
        let mut bytes = 0;
        while bytes < CHUNK
            && let Some(object) = self.initial.pop_front()
        {
            if self.selector.matches(&object.key, &object.meta) {
                match self.frame("ADDED", &object) {
                    Ok(frame) => {
                        bytes += frame.len();
                        self.queued.push_back(frame);
                    }
                    Err(error) => return self.fail(&error),
                }
            }
        }
        if self.initial.is_empty()
            && let Some(revision) = self.end_of_initial.take()
        {
            self.queued.push_back(self.form.bookmark(&self.entry, revision, true));
            self.bookmarked = revision;
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.initial.clear();
        self.end_of_initial = None;
        self.queued.push_back(error_frame(error));
        self.ended = true;
    }

    /// The next chunk of the response; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.begin();
            if let Some(chunk) = self.drain() {
                return Some(chunk);
            }
            if self.ended {
                return None;
            }
            match self.wait().await {
                Turn::Stop => self.ended = true,
                Turn::Changes(Ok(changes)) => self.take(&changes),
                Turn::Changes(Err(end)) => self.end(end),
                Turn::Timer => self.timer(),
            }
        }
    }

    async fn wait(&mut self) -> Turn {
        let until = self.deadline.min(self.next_bookmark);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Turn::Stop,
            changes = self.watch.next() => Turn::Changes(changes),
            () = tokio::time::sleep_until(until) => Turn::Timer,
        }
    }

    fn take(&mut self, changes: &[Arc<Change>]) {
        for change in changes {
            match self.encode(change) {
                Ok(Some(frame)) => self.queued.push_back(frame),
                Ok(None) => {}
                Err(error) => return self.fail(&error),
            }
        }
    }

    /// The frame of a change; `None` when the selector has nothing to do with it.
    fn encode(&mut self, change: &Change) -> ApiResult<Option<Bytes>> {
        let plain = self.form.is_plain() && !self.entry.habit.reads_differ();
        let selects = |object: &Object| self.selector.matches(&object.key, &object.meta);
        let now = change.kind != ChangeKind::Deleted && selects(&change.object);
        let before = change.previous.as_deref().map_or(change.kind == ChangeKind::Deleted, |previous| {
            change.kind != ChangeKind::Created && selects(previous)
        });
        let (word, same) = match (before, now) {
            (false, false) => return Ok(None),
            (false, true) => ("ADDED", change.kind == ChangeKind::Created),
            (true, true) => ("MODIFIED", change.kind == ChangeKind::Updated),
            (true, false) => ("DELETED", change.kind == ChangeKind::Deleted),
        };
        if plain && same { Ok(Some(change.frame.clone())) } else { self.frame(word, &change.object).map(Some) }
    }

    fn frame(&mut self, word: &str, object: &Arc<Object>) -> ApiResult<Bytes> {
        let body = if self.entry.habit.reads_differ() {
            habits::readable_now(&self.server, &self.entry, object)?
        } else {
            object.body.clone()
        };
        let first = !std::mem::replace(&mut self.began, true);
        self.form.event(&self.entry, word, body, first, self.server.clock().now())
    }

    fn end(&mut self, end: WatchEnd) {
        self.ended = true;
        match end {
            // The client resumes from the last revision that it got.
            WatchEnd::Slow | WatchEnd::Closed => {}
            WatchEnd::Expired => self.fail(&ApiError::expired("too old resource version: the history was compacted")),
        }
    }

    fn timer(&mut self) {
        let now = Instant::now();
        if now >= self.deadline {
            self.ended = true;
            self.bookmark();
            return;
        }
        if now >= self.next_bookmark {
            self.bookmark();
            let last = self.deadline.checked_sub(LAST_BOOKMARK).unwrap_or(self.deadline);
            let next = now + self.server.limits().bookmark;
            self.next_bookmark = if now < last { next.min(last) } else { self.deadline };
        }
    }

    fn bookmark(&mut self) {
        let at = self.watch.progress();
        if self.bookmarks && at > self.bookmarked {
            self.bookmarked = at;
            self.queued.push_back(self.form.bookmark(&self.entry, at, false));
        }
    }

    /// Everything that is queued, in one chunk.
    fn drain(&mut self) -> Option<Bytes> {
        if self.queued.len() < 2 {
            return self.queued.pop_front();
        }
        let mut chunk = BytesMut::with_capacity(self.queued.iter().map(Bytes::len).sum());
        for frame in self.queued.drain(..) {
            chunk.extend_from_slice(&frame);
        }
        Some(chunk.freeze())
    }
}

/// `ERROR` with a Status, as watches report what comes too late for the head.
pub(crate) fn error_frame(error: &ApiError) -> Bytes {
    let mut frame = b"{\"type\":\"ERROR\",\"object\":".to_vec();
    frame.extend_from_slice(&error.to_json());
    frame.extend_from_slice(b"}\n");
    frame.into()
}
