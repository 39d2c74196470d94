//! Starting a sandbox: from a claimed Pod to a shim that has claimed the run directory.
//!
//! Everything before the shim can be repeated: it only makes what is there already anew. The shim's mkdir decides that
//! it runs once.

use futures::future::{OptionFuture, try_join};
use mainstay_runtime::fault::{Point, hit};

use super::{AgentError, Class, Classify, Look, Token, View, While, Worker, chain_of, status};
use crate::agent::layout::{Keep, make_dir, write_record};
use crate::agent::prepare::{Place, admit, launch, spec};
use crate::agent::ranges::Owner;
use crate::agent::records::PodRecord;
use crate::agent::sources::resolve;
use crate::agent::status::End;
use crate::agent::token::fetch;
use crate::launch::{ExitReason, Launch};

impl Worker {
    /// Starts the sandbox; a refusal for good becomes the Pod's end.
    pub(super) async fn start(&mut self) -> Result<(), AgentError> {
        let Some(view) = self.view().cloned() else { return Ok(()) };
        let started = self.try_start(&view).await;
        let Err(error) = started else { return self.await_end() };
        match error.class() {
            // Another shim was faster, or an earlier attempt of ours: the run directory tells.
            Class::Conflict => Ok(()),
            Class::Terminal(_) => self.refused(&view, &error).await,
            Class::Transient { .. } | Class::Indeterminate | Class::Fenced => Err(error),
        }
    }

    /// A shim that gave up before it claimed leaves nothing, and nothing was executed. If it left something, that tells.
    async fn refused(&mut self, view: &View, error: &AgentError) -> Result<(), AgentError> {
        let look = self.shared.sandboxes.look(&self.shared.layout.run(&self.uid));
        if !matches!(look.during("read the run directory")?, Look::Absent) {
            return Ok(());
        }
        tracing::warn!(pod = self.uid, error = chain_of(error), "a Pod was refused");
        let now = self.shared.clock.now();
        let end = End::never_started(ExitReason::CreationFailed, chain_of(error), now);
        self.report(&status::ended(view, &end, now)).await
    }

    async fn try_start(&mut self, view: &View) -> Result<(), AgentError> {
        admit(view, &self.shared.host)?;
        let client = &self.shared.client;
        let namespace = &view.pod.namespace;
        let token = OptionFuture::from(view.session.as_ref().map(|session| fetch(client, namespace, session)));
        let token = async { token.await.transpose() };
        let (sources, token) = try_join(resolve(client, namespace, spec(view)?), token).await?;
        let launch = launch(view, sources, self.place(view)?, &self.shared.host)?;
        self.lay_out(view, &launch)?;
        if let Some(token) = token {
            self.put_token(&token)?;
            self.token = Token { renewed_for: view.renewal.clone(), half_spent: false };
        }
        if let Some(session) = &view.session {
            self.open_relay(session)?;
        }
        hit(Point::NodeBeforeShim)?;
        let (sandboxes, exe) = (self.shared.sandboxes.clone(), self.shared.exe.clone());
        let spawned = self.shared.blocking(move || sandboxes.spawn(&exe, &launch)).await?;
        hit(Point::NodeAfterShim)?;
        spawned.during("start the sandbox")
    }

    fn place(&self, view: &View) -> Result<Place, AgentError> {
        let (shared, uid) = (&self.shared, &self.uid);
        let key = view.workspace_key();
        Ok(Place {
            run_dir: shared.layout.run(uid),
            sock_dir: shared.layout.sock(uid),
            token_dir: shared.layout.token(uid),
            workspace: shared.layout.workspace(key),
            instance: shared.instance.clone(),
            uid_base: shared.ranges.hold(key, uid)?,
            fence: shared.term.number,
        })
    }

    /// Makes the directories and writes down whose they are.
    fn lay_out(&self, view: &View, launch: &Launch) -> Result<(), AgentError> {
        let layout = &self.shared.layout;
        let key = view.workspace_key();
        let doing = "lay out the Pod's directories";
        make_dir(&layout.pod(&self.uid), 0o700).during(doing)?;
        // Seen from inside under another uid; their parent is not.
        make_dir(&launch.sock_dir, 0o755).during(doing)?;
        make_dir(&launch.token_dir, 0o755).during(doing)?;
        make_dir(&launch.workspace.dir, 0o700).during(doing)?;
        let record = PodRecord {
            pod: view.pod.clone(),
            workspace_key: key.to_owned(),
            uid_base: launch.uid_base,
            renewal: view.renewal.clone(),
        };
        record.write(&layout.record(&self.uid))?;
        let session = view.session.clone().filter(|_| view.keep);
        let owner = Owner { pod: view.pod.clone(), session, uid_base: launch.uid_base };
        // A workspace that outlives this boot must keep its uids.
        let keep = if view.keep { Keep::OverPowerLoss } else { Keep::ThisBoot };
        write_record(&layout.owner(key), &owner, keep).during("write the workspace's owner")
    }
}
