//! Reads answers within their caps and not below a pace (M1): bytes that trickle are a refusal, not a wait.

use super::client::Patience;
use crate::error::{Error, Result};
use bytes::Bytes;
use reqwest::Response;
use shoal_protocol::refusal::Code;
use tokio::time::{Instant, timeout_at};

/// An answer's body, read at its pace.
pub(super) struct Body<'a> {
    response: Response,
    patience: &'a Patience,
    window_ends: Instant,
    in_window: u64,
}

impl<'a> Body<'a> {
    pub(super) fn new(response: Response, patience: &'a Patience) -> Self {
        Self { response, patience, window_ends: Instant::now() + patience.window, in_window: 0 }
    }

    /// The next bytes; `None` at the end.
    ///
    /// Dropped at an await it loses nothing that was handed out.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let next = timeout_at(self.window_ends, self.response.chunk()).await;
            if let Ok(chunk) = next {
                let chunk = chunk
                    .map_err(|e| Error::Unavailable(format!("the transfer broke off: {}", chain(&e))))?;
                self.in_window += chunk.as_ref().map_or(0, |c| c.len() as u64);
                if chunk.is_none() || Instant::now() < self.window_ends {
                    return Ok(chunk);
                }
                self.next_window()?;
                return Ok(chunk);
            }
            self.next_window()?;
        }
    }

    fn next_window(&mut self) -> Result<()> {
        if self.in_window < self.patience.bytes_per_window {
            let detail = format!(
                "{} bytes came in {} s, at least {} were expected",
                self.in_window,
                self.patience.window.as_secs_f32(),
                self.patience.bytes_per_window
            );
            return Err(Error::refused(Code::Stalled, detail));
        }
        self.window_ends = Instant::now() + self.patience.window;
        self.in_window = 0;
        Ok(())
    }

    /// The whole body, at most `cap` bytes.
    pub(super) async fn whole(mut self, cap: u64, what: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > cap {
                return Err(Error::refused(Code::TooLarge, format!("{what} has more than {cap} bytes")));
            }
        }
        Ok(bytes)
    }
}

/// An error and its causes in one line.
pub(super) fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        let text = c.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        cause = c.source();
    }
    out
}
