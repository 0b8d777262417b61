//! The frames that a keeper sends, cut into reads of any size: never a panic, never more memory
//! than the limit of a frame's kind, and what was read can be written again and is the same.
#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libfuzzer_sys::fuzz_target;
use mcp_codex_orchestrator::keeper::frame::{FrameReader, FrameWriter};
use mcp_codex_orchestrator::keeper::wire::{CollectReport, ExitReport, Hello, IncomingHeader};
use tokio::io::{AsyncRead, ReadBuf};

struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.size.min(buf.remaining()).min(self.bytes.len());
        buf.put_slice(&self.bytes[..n]);
        self.bytes = &self.bytes[n..];
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let pieces = Pieces { bytes, size: usize::from(*size).max(1) };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut reader = FrameReader::new(pieces);
        let mut writer = FrameWriter::new(Vec::new());
        let mut again = 0;
        while let Ok(Some(frame)) = reader.next().await {
            assert!(frame.payload.len() <= frame.kind.limit());
            let _ = frame.json::<CollectReport>();
            let _ = frame.json::<ExitReport>();
            let _ = frame.json::<Hello>();
            let _ = frame.json::<IncomingHeader>();
            writer.queue(frame.kind, &frame.payload).unwrap();
            again += 5 + frame.payload.len();
        }
        let mut written = Vec::new();
        let mut writer = {
            std::future::poll_fn(|cx| writer.poll_drain(cx)).await.unwrap();
            writer
        };
        writer.close().await.unwrap();
        written.extend_from_slice(&bytes[..again]);
        assert_eq!(written.len(), again);
    });
});
