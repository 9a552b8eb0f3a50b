//! Publishing: whom a message is sent to, and when it has to wait for them.

use std::time::Instant;

use bytes::Bytes;
use libp2p::{
    PeerId,
    gossipsub::{IdentTopic, MessageAcceptance, MessageId},
};
use p2pd_core::{id, time::UnixMs};

use super::{
    PubSub, Sent, Wire, flood_publish,
    flow_control::{Room, SMALL},
    judge::{Class, Ticket},
    send_queue::{Held, Message},
    topics::followers,
};
use crate::{NetError, ids};

impl PubSub {
    /// Sends a message, or holds it back, behind those of its kind and topic that are.
    pub(super) fn send_or_hold(&mut self, wire: &mut Wire<'_>, wall: UnixMs, topic: String, message: Message) {
        let mut held = std::mem::take(&mut self.held);
        let now = Instant::now();
        let refused = held.push(topic, message, now, |topic, held| self.send(wire, wall, now, topic, held));
        self.held = held;
        match refused {
            Some(Message::Own { reply, .. }) => drop(reply.send(Err(NetError::Busy))),
            // Peers that have room get it; not what the directory repeats anyway.
            Some(Message::Passing { id, source, class: Class::Directory, .. }) => ignore(wire, &id, &source),
            Some(Message::Passing { id, source, class: Class::Messages, .. }) if !wire.flow.shaper().is_free() => {
                wire.flow.shaper().left_out();
                ignore(wire, &id, &source);
            }
            Some(Message::Passing { id, source, bytes, class }) => {
                self.pass_on(wire, &Ticket { id, source, bytes }, class, now);
            }
            None => {}
        }
    }

    /// Tries again what is held back.
    pub(super) fn send_held(&mut self, wire: &mut Wire<'_>, wall: UnixMs) {
        let mut held = std::mem::take(&mut self.held);
        let now = Instant::now();
        held.retry(now, |topic, held| self.send(wire, wall, now, topic, held));
        self.held = held;
    }

    /// Sends a message, or returns it if it is to wait.
    fn send(&mut self, wire: &mut Wire<'_>, wall: UnixMs, now: Instant, topic: &str, held: Held) -> Option<Held> {
        let may_wait = now < held.until;
        match held.message {
            Message::Own { data, reply } => {
                let followers = followers(wire.gossipsub, &IdentTopic::new(topic).hash());
                let room = if followers.len() > flood_publish::MOST {
                    // Only some are sent to, who pass it on.
                    Room::Beside(0)
                } else {
                    wire.flow.room(&followers, data.len(), now)
                };
                let sent = match room {
                    Room::Wait(_) if may_wait => Err(NetError::Busy),
                    // What is published waits before it is in a queue, where sound could not overtake it.
                    _ if !wire.flow.shaper().may_publish(&followers) => Err(NetError::Bandwidth),
                    // Nobody has taken anything: one more would be in the way of small ones.
                    Room::Wait(behind) if data.len() > SMALL && behind >= followers.len() => Err(NetError::Busy),
                    _ if may_wait
                        && followers.len() > self.mesh
                        && self.flood.is_worth_waiting(followers.len(), data.len(), now) =>
                    {
                        Err(NetError::Busy)
                    }
                    Room::Wait(_) | Room::Beside(_) if !self.kept.publish(Class::Messages, data.len(), now) => {
                        Err(NetError::Busy)
                    }
                    // Who has room gets it.
                    Room::Wait(behind) | Room::Beside(behind) => {
                        let published = self.publish_to(wire, wall, &followers, topic, &data, Vec::new());
                        match &published {
                            Ok(published) => {
                                wire.flow.shaper().published(&published.to, data.len());
                                self.count(topic, &followers, published);
                            }
                            Err(_) => self.kept.give_back(Class::Messages, data.len()),
                        }
                        published.map(|published| Sent { behind, ..published.sent })
                    }
                };
                if matches!(sent, Err(NetError::Busy | NetError::Bandwidth)) && may_wait {
                    return Some(Held { message: Message::Own { data, reply }, ..held });
                }
                if matches!(sent, Err(NetError::Bandwidth)) {
                    wire.flow.shaper().left_out();
                }
                let _ = reply.send(sent);
            }
            Message::Passing { id, source, bytes, class } => {
                let ticket = Ticket { id, source, bytes };
                let topic = IdentTopic::new(topic).hash();
                let mesh = wire.gossipsub.mesh_peers(&topic).filter(|peer| **peer != ticket.source);
                let to: Vec<PeerId> = mesh.copied().collect();
                // Messages of the directory are small, so that their number counts.
                let bytes = if class == Class::Directory { 0 } else { bytes };
                let line_is_full = class != Class::Live && !wire.flow.shaper().may_publish(&to);
                let waits = line_is_full
                    || matches!(wire.flow.room(&to, bytes, now), Room::Wait(_))
                    || (class == Class::Directory && wire.flow.is_busy_with_directory(&to));
                if waits && may_wait {
                    let Ticket { id, source, bytes } = ticket;
                    return Some(Held { message: Message::Passing { id, source, bytes, class }, ..held });
                }
                if line_is_full {
                    wire.flow.shaper().left_out();
                }
                // What the directory says is repeated anyway, and would take the last room in these queues from sound.
                if line_is_full || (class == Class::Directory && wire.flow.are_most_busy_with_directory(&to)) {
                    ignore(wire, &ticket.id, &ticket.source);
                } else if self.pass_on(wire, &ticket, class, now) {
                    wire.flow.sent(&to, bytes);
                    if class != Class::Live {
                        wire.flow.shaper().published(&to, ticket.bytes);
                    }
                }
            }
        }
        None
    }

    /// Has gossipsub pass a message on, unless too much is kept for others. Whether it does.
    pub(super) fn pass_on(&mut self, wire: &mut Wire<'_>, ticket: &Ticket, class: Class, now: Instant) -> bool {
        let Ticket { id, source, bytes } = ticket;
        let passes = self.kept.pass_on(source, class, *bytes, now);
        let acceptance = if passes { MessageAcceptance::Accept } else { MessageAcceptance::Ignore };
        wire.gossipsub.report_message_validation_result(id, source, acceptance);
        passes
    }

    /// Publishes a message of a stream or of the directory now, or not at all: to these followers whether or not they are in the mesh.
    pub(super) fn publish_also_to(
        &mut self,
        wire: &mut Wire<'_>,
        wall: UnixMs,
        topic: &str,
        data: &Bytes,
        also_to: &[id::PeerId],
    ) -> Result<Sent, NetError> {
        let followers = followers(wire.gossipsub, &IdentTopic::new(topic).hash());
        let also_to = also_to.iter().filter_map(ids::to_libp2p).filter(|peer| followers.contains(peer)).collect();
        if !self.kept.publish(Class::Live, data.len(), Instant::now()) {
            return Err(NetError::Busy);
        }
        self.publish_to(wire, wall, &followers, topic, data, also_to).map(|published| published.sent)
    }

    /// Counts a message of a program, so that followers who miss it are told.
    fn count(&mut self, topic: &str, followers: &[PeerId], published: &Published) {
        let followers = || followers.iter().map(ids::from_libp2p).collect();
        self.published.note(topic, published.number, followers);
        published.left_out.iter().for_each(|peer| self.published.missed(ids::from_libp2p(peer)));
    }

    /// Publishes a message to those of the mesh, to those named, and as bandwidth allows to the other followers.
    fn publish_to(
        &mut self,
        wire: &mut Wire<'_>,
        wall: UnixMs,
        followers: &[PeerId],
        topic: &str,
        data: &Bytes,
        mut also_to: Vec<PeerId>,
    ) -> Result<Published, NetError> {
        let Wire { gossipsub, flow, .. } = wire;
        let hash = IdentTopic::new(topic).hash();
        let mut to: Vec<PeerId> = gossipsub.mesh_peers(&hash).copied().collect();
        let mut full = Vec::new();
        let in_mesh = to.len();
        if followers.len() > in_mesh {
            to.extend(also_to.iter().filter(|peer| !to.contains(peer)).copied().collect::<Vec<_>>());
            let outside = followers.iter().filter(|peer| !to.contains(peer)).copied();
            let (others, without_room) = outside.partition(|peer| flow.has_room(peer, data.len()));
            full = without_room;
            // So few are sent to directly in any case.
            let few = followers.len() <= self.mesh;
            let others = if few { others } else { self.flood.choose(others, data.len(), Instant::now()) };
            to.extend(&others);
            also_to.extend(others);
            let left: Vec<PeerId> = followers.iter().filter(|peer| !to.contains(peer)).copied().collect();
            if self.topics.is_followed(&hash) {
                // While its mesh is small gossipsub adds others by chance: all where they are so few, also those that are full here.
                if left.len() <= self.mesh.saturating_sub(in_mesh) {
                    to.extend(left);
                    full.clear();
                }
            } else if to.is_empty() {
                // Of a topic that is not followed here there is no mesh, and nobody is added.
                to.extend(&left);
                also_to.extend(left);
                full.clear();
            }
        }
        // Gossipsub sends what it publishes to explicit peers, too.
        also_to.iter().for_each(|peer| gossipsub.add_explicit_peer(peer));
        let sent = self.topics.publish(gossipsub, &self.own, topic, data, wall);
        also_to.iter().for_each(|peer| gossipsub.remove_explicit_peer(peer));
        let (id, number) = sent.inspect_err(|error| {
            if matches!(error, NetError::Busy) && followers.len() <= self.mesh {
                // To all of them, and the library counts that as missed, which it is not.
                self.slow.refused(followers);
            }
        })?;
        flow.sent(&to, data.len());
        // The library counts only what it was to send.
        self.slow.missed(&full);
        let left_out = followers.iter().filter(|peer| !to.contains(peer)).copied().collect();
        Ok(Published { sent: Sent { id, followers: followers.len(), behind: 0 }, number, to, left_out })
    }
}

/// A message that went out.
struct Published {
    sent: Sent,
    /// Its sequence number.
    number: u64,
    to: Vec<PeerId>,
    /// Followers that it was not sent to, who may hear of it from others.
    left_out: Vec<PeerId>,
}

/// Has gossipsub forget a message that is not passed on.
fn ignore(wire: &mut Wire<'_>, id: &MessageId, source: &PeerId) {
    wire.gossipsub.report_message_validation_result(id, source, MessageAcceptance::Ignore);
}
