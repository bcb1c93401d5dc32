//! A replica that lies on purpose, for tests and measurements. It stands between the driver and
//! the links: the core behind it is a correct one, and what it says is twisted on the way out.

use std::time::Duration;

use bftfs_adversary::{Adversary, Role, Said, Utterance};
use bftfs_net::{Clock, Event, Forged, Links};
use bftfs_proto::engine::To;
use bftfs_proto::message::Message;
use bftfs_proto::types::Principal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};
use tracing::warn;

use crate::startup::Node;

/// Pause between two moments at which a liar may speak unasked.
const TICK: Duration = Duration::from_millis(50);
/// Events that wait for the driver behind the liar.
const EVENTS_MAX: usize = 256;

/// How a replica lies.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Options {
    /// Lie in this role
    #[arg(long = "byzantine", value_name = "ROLE")]
    role: Option<Role>,
    /// Begin to lie at the first SIGUSR1, stop at the second, and so on
    #[arg(long = "byzantine-on-signal", requires = "role")]
    on_signal: bool,
}

/// Has a liar stand between the links and whoever is given what this returns.
pub(crate) fn stand_between(
    node: &Node,
    links: Links,
    events: mpsc::Receiver<Event>,
) -> anyhow::Result<(Links, mpsc::Receiver<Event>)> {
    let Some(role) = node.lies.role else { return Ok((links, events)) };
    warn!("replica {} lies on purpose: {role}", node.me);
    let (diverted, said) = links.diverted();
    let (onward, heard) = mpsc::channel(EVENTS_MAX);
    let seed = u64::from(node.me.0);
    let adversary =
        Adversary::new(role, node.file.cluster(), node.me, node.identity.signer(), seed);
    let liar = Liar { adversary, lying: !node.lies.on_signal, clock: node.clock, links };
    tokio::spawn(liar.play(said, events, onward, signal(SignalKind::user_defined1())?));
    Ok((diverted, heard))
}

struct Liar {
    adversary: Adversary,
    lying: bool,
    clock: Clock,
    links: Links,
}

impl Liar {
    /// Plays the role until the process ends.
    async fn play(
        mut self,
        mut said: mpsc::UnboundedReceiver<(To, Message)>,
        mut events: mpsc::Receiver<Event>,
        onward: mpsc::Sender<Event>,
        mut usr1: Signal,
    ) {
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                Some((to, message)) = said.recv() => self.say(to, &message),
                Some((event, permit)) = next(&mut events, &onward) => {
                    if self.hear(&event) {
                        permit.send(event);
                    }
                }
                Some(()) = usr1.recv() => self.change(),
                _ = tick.tick(), if self.lying => {
                    let said = self.adversary.tick(self.clock.now());
                    self.utter(said);
                }
                else => return,
            }
        }
    }

    /// What the core says.
    fn say(&mut self, to: To, message: &Message) {
        if self.lying {
            let said = self.adversary.say(self.clock.now(), to, message);
            self.utter(said);
        } else {
            self.links.send(to, message);
        }
    }

    /// Whether the core is to hear of this.
    fn hear(&mut self, event: &Event) -> bool {
        match event {
            Event::Message(from, message) if self.lying => {
                self.adversary.hear(self.clock.now(), *from, message)
            }
            _ => true,
        }
    }

    fn change(&mut self) {
        self.lying = !self.lying;
        warn!("this replica {} from now on", if self.lying { "lies" } else { "is honest" });
    }

    fn utter(&self, said: Vec<Said>) {
        for Said { to, delay_nanos, what } in said {
            let links = self.links.clone();
            if delay_nanos == 0 {
                utter(&links, to, what);
            } else {
                tokio::spawn(async move {
                    sleep(Duration::from_nanos(delay_nanos)).await;
                    utter(&links, to, what);
                });
            }
        }
    }
}

fn utter(links: &Links, to: Principal, what: Utterance) {
    let forged = match what {
        Utterance::Message(message) => return links.send(To::One(to), &message),
        Utterance::BadMac(message) => Forged::BadMac(message.encode()),
        Utterance::Sealed(bytes) => Forged::Sealed(bytes.into()),
        Utterance::Raw(bytes) => Forged::Raw(bytes.into()),
    };
    links.send_forged(to, &forged);
}

/// The next event, once there is room for it: while the driver is too busy to hear, so is the liar.
async fn next<'a>(
    events: &mut mpsc::Receiver<Event>,
    onward: &'a mpsc::Sender<Event>,
) -> Option<(Event, mpsc::Permit<'a, Event>)> {
    let permit = onward.reserve().await.ok()?;
    Some((events.recv().await?, permit))
}
