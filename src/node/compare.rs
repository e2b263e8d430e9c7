//! What the two nodes' configurations differ in.
//!
//! Heartbeats tell the fingerprint of the whole. Where that of the peer is another one, each node sends
//! the fingerprints of its settings, once for each pair of wholes and session, so that both can name
//! what differs. Values do not cross.

use super::Node;
use crate::config::{MAX_MARKS, Mark, differing};
use crate::model::ConfigHash;
use crate::wire::replication::{Frame, MAX_BATCH};

/// What the node keeps of it.
#[derive(Debug, Default)]
pub(super) struct CompareBook {
    /// Our fingerprint and the peer's, for which ours were sent.
    sent: Option<(ConfigHash, ConfigHash)>,
    /// What has come so far, and of which configuration.
    coming: Option<(ConfigHash, Vec<Mark>)>,
    theirs: Option<(ConfigHash, Vec<Mark>)>,
    /// In words, for these two fingerprints.
    differs: Option<((ConfigHash, ConfigHash), Vec<String>)>,
}

impl CompareBook {
    /// Another session.
    pub(super) fn begin(&mut self) {
        self.sent = None;
        self.coming = None;
    }
}

impl Node {
    fn peers_config(&self) -> Option<ConfigHash> {
        self.election.peer().map(|peer| peer.config_hash)
    }

    /// Tells the peer our settings' fingerprints if it needs them.
    pub(super) fn run_compare(&mut self) {
        let Some(theirs) = self.peers_config() else {
            return;
        };
        let both = (self.config.hash, theirs);
        if both.0 == both.1 || self.compare.sent == Some(both) {
            return;
        }
        let marks = self.config.marks.clone();
        let frames = marks.len().div_ceil(MAX_BATCH) as u32;
        if frames > self.link.room() {
            return;
        }
        self.compare.sent = Some(both);
        for (n, marks) in (1..).zip(marks.chunks(MAX_BATCH)) {
            self.send_frame(Frame::Marks {
                config: both.0,
                marks: marks.to_vec(),
                last: n == frames,
            });
        }
    }

    /// The peer's have come, or some of them.
    pub(super) fn hear_marks(
        &mut self,
        config: ConfigHash,
        marks: Vec<Mark>,
        last: bool,
    ) -> Result<(), String> {
        let coming = self.compare.coming.take();
        let coming = coming.filter(|(of, _)| *of == config);
        let mut coming = coming.map(|(_, marks)| marks).unwrap_or_default();
        if coming.len() + marks.len() > MAX_MARKS {
            return Err("more marks than a configuration may have".into());
        }
        coming.extend(marks);
        if last {
            self.compare.theirs = Some((config, coming));
            self.compare();
        } else {
            self.compare.coming = Some((config, coming));
        }
        Ok(())
    }

    /// One of the two configurations is another one.
    pub(super) fn compare(&mut self) {
        let ours = self.config.hash;
        self.compare.differs = self.compare.theirs.as_ref().map(|(theirs, marks)| {
            let words = differing(&self.config.marks, marks);
            ((ours, *theirs), words)
        });
    }

    /// What differs between the configurations that hold now, as far as it is known.
    pub(super) fn differs(&self) -> Vec<String> {
        let theirs = self.peers_config().filter(|it| *it != self.config.hash);
        let both = theirs.map(|theirs| (self.config.hash, theirs));
        let known = self.compare.differs.as_ref();
        let known = known.filter(|(of, _)| Some(*of) == both);
        known.map(|(_, words)| words.clone()).unwrap_or_default()
    }
}
