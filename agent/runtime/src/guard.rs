//! The asynchronous way to guard: calls on their own threads, sockets reconnected when the other side was restarted.
//!
//! A call that finds its connection gone connects once more; waiting for a guard that is down is the caller's business.

use shoal_ipc::{AdmitClient, Error, Event, EventStream, Layout, SuperviseClient};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::unix::AsyncFd;

type Slot<C> = Arc<Mutex<Option<C>>>;

/// Connections to admit and supervise, kept open between calls.
#[derive(Debug, Clone)]
pub struct Guard {
    layout: Layout,
    /// Uid 0's own socket instead of the agent's.
    root: bool,
    admit: Slot<AdmitClient>,
    supervise: Slot<SuperviseClient>,
    /// Copies take long, and starts must not wait behind them.
    staging: Slot<SuperviseClient>,
}

impl Guard {
    /// Nothing is connected before the first call.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            root: false,
            admit: Slot::default(),
            supervise: Slot::default(),
            staging: Slot::default(),
        }
    }

    /// Over uid 0's own socket of supervise.
    pub fn of_root(layout: Layout) -> Self {
        Self { root: true, ..Self::new(layout) }
    }

    /// Events of supervise on the same side.
    pub fn events(&self) -> Result<Events, Error> {
        if self.root { Events::supervise_root(&self.layout) } else { Events::supervise(&self.layout) }
    }

    fn connect(&self) -> impl Fn() -> Result<SuperviseClient, Error> + Send + 'static {
        let (layout, root) = (self.layout.clone(), self.root);
        move || if root { SuperviseClient::connect_root(&layout) } else { SuperviseClient::connect(&layout) }
    }

    /// Where the device's files are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Asks admit.
    pub async fn admit<T: Send + 'static>(
        &self,
        ask: impl Fn(&mut AdmitClient) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let layout = self.layout.clone();
        call(self.admit.clone(), move || AdmitClient::connect(&layout), ask).await
    }

    /// Asks supervise for something that it answers at once.
    pub async fn supervise<T: Send + 'static>(
        &self,
        ask: impl Fn(&mut SuperviseClient) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        call(self.supervise.clone(), self.connect(), ask).await
    }

    /// Asks supervise for something that takes its time.
    pub async fn staging<T: Send + 'static>(
        &self,
        ask: impl Fn(&mut SuperviseClient) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        call(self.staging.clone(), self.connect(), ask).await
    }
}

async fn call<C: Send + 'static, T: Send + 'static>(
    slot: Slot<C>,
    connect: impl Fn() -> Result<C, Error> + Send + 'static,
    ask: impl Fn(&mut C) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let work = move || {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let reused = slot.is_some();
        let mut client = slot.take().map_or_else(&connect, Ok)?;
        let mut result = ask(&mut client);
        if reused && result.as_ref().is_err_and(Error::is_disconnect) {
            client = connect()?;
            result = ask(&mut client);
        }
        // After anything but an answer, what comes next on this connection would belong to this call.
        if matches!(result, Ok(_) | Err(Error::Refused { .. })) {
            *slot = Some(client);
        }
        result
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::io("finish a call to guard", io::Error::other(e))))
}

/// Events of one socket as they come.
#[derive(Debug)]
pub struct Events(AsyncFd<EventStream>);

impl Events {
    /// Admit's.
    pub fn admit(layout: &Layout) -> Result<Self, Error> {
        Self::new(EventStream::admit(layout)?)
    }

    /// Supervise's.
    pub fn supervise(layout: &Layout) -> Result<Self, Error> {
        Self::new(EventStream::supervise(layout)?)
    }

    /// Supervise's, as uid 0.
    pub fn supervise_root(layout: &Layout) -> Result<Self, Error> {
        Self::new(EventStream::supervise_root(layout)?)
    }

    #[expect(
        deprecated,
        reason = "its replacement is unsafe; the stream keeps one descriptor for as long as it lives"
    )]
    fn new(stream: EventStream) -> Result<Self, Error> {
        AsyncFd::new(stream).map(Self).map_err(|e| Error::io("watch a socket of events", e))
    }

    /// The next event. Cancel-safe: an event is taken from the socket only when it is returned.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            let mut ready = self.0.readable_mut().await.map_err(|e| Error::io("wait for an event", e))?;
            match ready.get_inner_mut().try_next()? {
                Some(event) => return Ok(event),
                None => ready.clear_ready(),
            }
        }
    }
}
