//! The device's certificate, renewed before it ends: asked for in a task of its own, kept, then used.

use super::{Daemon, Wake, world};
use crate::entropy;
use crate::identity::Files;
use crate::points;
use crate::renewal::{self, Ask, NotRenewed, Renewed, Trouble};
use shoal_agent_core::renewal::{Life, Next, next, retry_delay};
use shoal_ipc::Layout;
use shoal_protocol::ids::{Bytes, Timestamp};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What became of a request.
pub(super) type Answer = Result<Renewed, NotRenewed>;

/// How it is with the certificate.
pub(super) struct Renewal {
    life: Life,
    /// The root's authorities.
    ca: Vec<Bytes>,
    /// The certificate is by none of them.
    foreign: bool,
    /// What was proven of the time when the daemon began; admission knows more later.
    floor: Timestamp,
    trouble: Option<Trouble>,
    /// There is none yet, and so nothing to renew.
    is_absent: bool,
    /// The last failure was that nobody could be asked.
    unreachable: bool,
    /// The broker called the certificate expired.
    refused: bool,
    asking: bool,
    /// Nothing is asked before.
    not_before: Option<Instant>,
    /// When to look again.
    look: Option<Instant>,
    answers: mpsc::Sender<Answer>,
}

impl Renewal {
    /// With the certificate that the device has. One that cannot be read is due now.
    pub(super) fn new(
        layout: &Layout,
        certificate: &[u8],
        ca: Vec<Bytes>,
        floor: Timestamp,
        answers: mpsc::Sender<Answer>,
    ) -> Self {
        let life = match renewal::read(certificate) {
            _ if certificate.is_empty() => Life { not_before: floor, not_after: Timestamp(u64::MAX) },
            Ok(c) => c.life,
            Err(error) => {
                tracing::error!(error = %format!("{error:#}"), "the device's certificate cannot be read");
                Life { not_before: Timestamp(0), not_after: Timestamp(0) }
            }
        };
        let trouble = Trouble::load(layout);
        let foreign = renewal::is_foreign(&ca, &certificate.into());
        Self {
            life,
            ca,
            foreign,
            floor,
            trouble,
            is_absent: certificate.is_empty(),
            unreachable: false,
            refused: false,
            asking: false,
            not_before: None,
            look: None,
            answers,
        }
    }

    /// A newer root may have other authorities, under which the certificate counts for nothing; whether they are others.
    pub(super) fn follow(&mut self, ca: Vec<Bytes>, certificate: &[u8]) -> bool {
        self.foreign = renewal::is_foreign(&ca, &certificate.into());
        let others = self.ca != ca;
        self.ca = ca;
        if self.foreign {
            // Whatever was wrong before was so at another controller.
            self.not_before = None;
        }
        others
    }

    /// When it wants attention.
    pub(super) fn due(&self) -> Option<Instant> {
        self.look
    }

    /// The connection is up: what failed for want of one is tried now.
    pub(super) fn connected(&mut self) {
        self.refused = false;
        if self.unreachable {
            self.not_before = None;
        }
    }

    /// The connection is down, maybe because the broker calls the certificate expired.
    pub(super) fn disconnected(&mut self, expired: bool) {
        self.refused |= expired;
    }

    /// What of it is told as a state of the whole device.
    pub(super) fn conditions(&self, now: Timestamp) -> [(bool, &'static str); 2] {
        conditions(&self.life, now, self.refused, self.trouble.is_some())
    }
}

/// The states of the whole device that a certificate makes.
pub(crate) fn conditions(
    life: &Life,
    now: Timestamp,
    refused: bool,
    failing: bool,
) -> [(bool, &'static str); 2] {
    [(refused || life.has_ended(now), "certificate_expired"), (failing, "certificate_renewal_failed")]
}

impl Daemon {
    /// Now, as far as anything here can tell.
    fn proven_now(&self) -> Timestamp {
        world::now(&self.world.trust).max(self.renewal.floor)
    }

    /// Asks for another certificate when it is time, and notes when to look again otherwise.
    pub(super) fn tend_certificate(&mut self) {
        if self.renewal.is_absent {
            return;
        }
        let now = self.proven_now();
        let floor = Timestamp(self.world.trust.time_floor).max(self.renewal.floor);
        let r = &mut self.renewal;
        r.look = None;
        if r.asking {
            return;
        }
        if let Next::Wait(seconds) = next(&r.life, &self.device, now, r.refused || r.foreign) {
            // A look at everything every few hours finds a clock that was set meanwhile.
            r.look = Instant::now().checked_add(Duration::from_secs(seconds));
            return;
        }
        if let Some(at) = r.not_before.filter(|t| *t > Instant::now()) {
            r.look = Some(at);
            return;
        }
        r.asking = true;
        let ask = Ask {
            key: self.key.clone(),
            ca: r.ca.clone(),
            addresses: self.api.clone(),
            present: self.tls.clone(),
            ended: r.refused || r.foreign || r.life.has_ended(now),
            proven: floor,
        };
        let answers = r.answers.clone();
        tracing::info!(ended = ask.ended, "the certificate is due for renewal");
        tokio::spawn(async move {
            // Without a receiver the daemon ends.
            let _ = answers.send(renewal::renew(ask).await).await;
        });
    }

    /// Keeps a renewed certificate, then uses it; notes a failure, and when to try again.
    pub(super) fn renewal_ended(&mut self, answer: Answer) {
        self.renewal.asking = false;
        let kept = answer.and_then(|renewed| {
            points::hit(points::RENEWED);
            let files = Files::new(self.guard.layout());
            match files.save_certificates(&renewed.certificates) {
                Ok(()) => Ok(renewed),
                Err(error) => Err(NotRenewed { error, unreachable: false }),
            }
        });
        match kept {
            Ok(renewed) => self.use_certificate(renewed),
            Err(error) => self.not_renewed(&error),
        }
    }

    fn use_certificate(&mut self, renewed: Renewed) {
        let life = renewed.certificate.life;
        tracing::info!(
            serial = renewed.certificate.serial,
            not_after = life.not_after.0,
            "the certificate is renewed"
        );
        let r = &mut self.renewal;
        r.life = life;
        (r.refused, r.foreign, r.unreachable) = (false, false, false);
        // A clock that runs ahead calls every certificate due: it gets one in a while.
        r.not_before = Instant::now().checked_add(Duration::from_secs(life.length() / 3));
        if r.trouble.take().is_some()
            && let Err(error) = Trouble::clear(self.guard.layout())
        {
            tracing::warn!(error = %format!("{error:#}"), "status goes on telling of it");
        }
        self.tls = renewed.tls;
        self.link.send_modify(|c| {
            c.tls = self.tls.clone();
            c.changes += 1;
        });
    }

    fn not_renewed(&mut self, error: &NotRenewed) {
        let now = self.proven_now();
        let r = &mut self.renewal;
        let mut trouble = Trouble::after(r.trouble.as_ref(), now, error);
        let wait = retry_delay(trouble.failures, r.life.left(now), entropy::draw());
        trouble.next = now.plus(wait).0;
        r.not_before = Instant::now().checked_add(Duration::from_secs(wait));
        r.unreachable = error.unreachable;
        tracing::warn!(
            error = trouble.error,
            failures = trouble.failures,
            wait_s = wait,
            "certificate_renewal_failed: the certificate is not renewed, and it is tried again"
        );
        if let Err(error) = trouble.save(self.guard.layout()) {
            tracing::warn!(error = %format!("{error:#}"), "status cannot tell of it");
        }
        r.trouble = Some(trouble);
    }
}

/// Waits for the answer of a request; loses none when it is dropped.
pub(super) async fn answered(answers: &mut mpsc::Receiver<Answer>) -> Option<Wake> {
    answers.recv().await.map(|answer| Wake::Renewed(Box::new(answer)))
}
