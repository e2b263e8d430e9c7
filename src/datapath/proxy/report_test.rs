use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::model::{BackendId, FlowId, ServiceId};

fn flow(n: u64) -> Rc<Flow> {
    let client = "192.0.2.1:1".parse().unwrap();
    let flow = Flow::new(FlowId(n), ServiceId(1), client, Duration::from_secs(1));
    flow.opened.set(Some((BackendId(1), Duration::ZERO)));
    Rc::new(flow)
}

fn opened(batch: &[FlowEvent]) -> Vec<u64> {
    let id = |event: &FlowEvent| match event {
        FlowEvent::Opened { flow, .. } => Some(flow.0),
        _ => None,
    };
    batch.iter().filter_map(id).collect()
}

fn end(n: u64) -> FlowEvent {
    FlowEvent::Closed {
        flow: FlowId(n),
        up: 0,
        down: 0,
        end: FlowEnd::Complete,
    }
}

#[test]
fn a_batch_waits_while_the_channel_is_full() {
    let (sender, mut events) = mpsc::channel(1);
    let mut report = Report::new(0, sender);
    let flows = Flows::default();
    report.opened(&flow(1));
    report.flush(&flows);
    report.opened(&flow(2));
    report.flush(&flows);
    assert!(!report.is_empty());
    assert_eq!(opened(&events.try_recv().unwrap()), [1]);
    report.flush(&flows);
    assert!(report.is_empty());
    assert_eq!(opened(&events.try_recv().unwrap()), [2]);
}

/// A report that has just lost 1,024 openings.
fn after_a_loss() -> (Report, Flows, mpsc::Receiver<Vec<FlowEvent>>) {
    let (sender, events) = mpsc::channel(1);
    let mut report = Report::new(3, sender.clone());
    sender.try_send(Vec::new()).unwrap();
    let mut flows = Flows::default();
    for n in 0..=PENDING as u64 {
        let flow = flow(n);
        flows.insert(Rc::clone(&flow));
        report.opened(&flow);
        report.flush(&flows);
    }
    (report, flows, events)
}

#[test]
fn after_a_loss_the_live_are_told_again_in_chunks() {
    let (mut report, flows, mut events) = after_a_loss();
    assert!(events.try_recv().unwrap().is_empty());
    let mut told = Vec::new();
    let mut batches = 0;
    while !report.is_empty() {
        report.flush(&flows);
        let batch = events.try_recv().unwrap();
        assert!(batch.len() <= RETOLD + 2, "{}", batch.len());
        let lost = FlowEvent::Lost {
            worker: 3,
            count: PENDING as u64,
        };
        assert_eq!(batch.contains(&lost), batches == 0);
        assert!(batches > 0 || batch[0] == lost, "said first");
        told.extend(opened(&batch));
        batches += 1;
    }
    told.sort_unstable();
    assert_eq!(told, (0..=PENDING as u64).collect::<Vec<_>>());
    assert_eq!(batches, 5);
}

#[test]
fn an_end_after_a_loss_brings_its_opening_along() {
    let (mut report, mut flows, mut events) = after_a_loss();
    let old = flows.part(900, 1).next().map(Rc::clone).unwrap();
    flows.remove(900);
    report.progress(&old);
    report.closed(&old, FlowEnd::Complete);
    events.try_recv().unwrap();
    let mut all = Vec::new();
    while !report.is_empty() {
        report.flush(&flows);
        all.extend(events.try_recv().unwrap());
    }
    let about: Vec<_> = (all.iter())
        .filter(|event| **event == end(900) || opened(std::slice::from_ref(event)) == [900])
        .collect();
    assert_eq!(about.len(), 2);
    assert_eq!(*about[1], end(900));
    let progress = |event: &FlowEvent| matches!(event, FlowEvent::Progress { .. });
    assert!(
        !all.iter().any(progress),
        "nothing of one that is not known"
    );
}

#[test]
fn a_node_that_is_gone_is_no_trouble() {
    let (sender, events) = mpsc::channel(1);
    drop(events);
    let mut report = Report::new(0, sender);
    for n in 0..10_000 {
        report.push(end(n));
        report.flush(&Flows::default());
    }
    assert!(report.batch.len() <= PENDING);
}
