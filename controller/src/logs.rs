//! Log lines on their way from a device to whoever asked: one bounded queue per question.

use shoal_protocol::ids::DeviceId;
use shoal_protocol::latest::LogChunk;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Chunks that may wait for a slow reader; then the stream ends as `lagged`.
const QUEUE: usize = 256;
/// Questions at a time.
const MAX_STREAMS: usize = 256;

type Streams = HashMap<u64, (DeviceId, mpsc::Sender<LogChunk>)>;

/// All open questions.
#[derive(Debug, Default)]
pub(crate) struct LogHub {
    streams: Arc<Mutex<Streams>>,
}

/// One open question; dropped, it is closed.
#[derive(Debug)]
pub(crate) struct LogStream {
    pub(crate) id: u64,
    pub(crate) chunks: mpsc::Receiver<LogChunk>,
    streams: Arc<Mutex<Streams>>,
}

impl LogHub {
    /// Opens a question under an id that the order carries; nothing when there are too many.
    pub(crate) fn open(&self, id: u64, device: DeviceId) -> Option<LogStream> {
        let (tx, chunks) = mpsc::channel(QUEUE);
        let mut streams = lock(&self.streams);
        if streams.len() >= MAX_STREAMS || streams.contains_key(&id) {
            return None;
        }
        streams.insert(id, (device, tx));
        Some(LogStream { id, chunks, streams: self.streams.clone() })
    }

    /// Passes a chunk on, if this device was asked for this stream.
    pub(crate) fn pass(&self, device: &DeviceId, chunk: LogChunk) {
        let mut streams = lock(&self.streams);
        let id = chunk.stream;
        let Some((asked, tx)) = streams.get(&id) else { return };
        if asked == device && tx.try_send(chunk).is_err() {
            // Dropping the sender is what tells the reader.
            streams.remove(&id);
        }
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        lock(&self.streams).remove(&self.id);
    }
}

fn lock(streams: &Mutex<Streams>) -> std::sync::MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(stream: u64) -> LogChunk {
        LogChunk {
            stream,
            container: "a".parse().unwrap(),
            lines: Vec::new().into(),
            end: false,
            reason: None,
        }
    }

    #[tokio::test]
    async fn only_the_asked_device_answers_and_a_slow_reader_loses_its_stream_not_the_fleet() {
        let hub = LogHub::default();
        let (a, b) = (DeviceId::of_spki(b"a"), DeviceId::of_spki(b"b"));
        let mut stream = hub.open(7, a.clone()).unwrap();
        assert!(hub.open(7, a.clone()).is_none());
        hub.pass(&b, chunk(7));
        hub.pass(&a, chunk(8));
        assert!(stream.chunks.try_recv().is_err());
        for _ in 0..=QUEUE {
            hub.pass(&a, chunk(7));
        }
        let mut got = 0;
        while stream.chunks.recv().await.is_some() {
            got += 1;
        }
        assert_eq!(got, QUEUE);
        drop(stream);
        assert!(hub.open(7, a).is_some());
    }
}
