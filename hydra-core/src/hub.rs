//! Who listens to which swamps: channels by the names of swamps and by patterns, whether a swamp is in memory or not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

use crate::channel::Channel;
use crate::error::{Error, ErrorCode, Result};
use crate::hashing::KeyHashing;
use crate::hydrate::Watch;
use crate::layout;
use crate::name::SwampName;
use crate::news::{Change, News};
use crate::pattern::Pattern;
use crate::shared::Shared;
use crate::state::State;
use crate::swamp::Resident;

/// How long a channel that nobody listens to stays for whoever comes back.
const LINGERS: Duration = Duration::from_secs(60);

/// Every channel of an engine.
#[derive(Debug)]
pub(crate) struct Hub {
    /// Numbers every change that is told in this process, and every moment at which some begin to be.
    arrivals: AtomicU64,
    /// Numbers the listeners, and how many there are.
    listeners: AtomicU64,
    listening: AtomicU64,
    channels: Mutex<Channels>,
    /// Copied folders are looked at for those who listen.
    is_polling: AtomicBool,
}

#[derive(Debug, Default)]
struct Channels {
    named: HashMap<SwampName, Arc<Channel>, KeyHashing>,
    patterns: Vec<(Pattern, Arc<Channel>)>,
    is_closed: bool,
}

/// What a channel hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topic {
    Swamp(SwampName),
    Pattern(Pattern),
}

/// Who has to be told what changes in one swamp in memory.
#[derive(Debug)]
pub(crate) struct Audience {
    name: SwampName,
    shared: Weak<Shared>,
    named: Option<Arc<Channel>>,
    patterns: Vec<Arc<Channel>>,
}

impl Hub {
    pub(crate) fn new() -> Hub {
        Hub {
            arrivals: AtomicU64::new(0),
            listeners: AtomicU64::new(0),
            listening: AtomicU64::new(0),
            channels: Mutex::default(),
            is_polling: AtomicBool::new(false),
        }
    }

    /// A number for something that happens now.
    pub(crate) fn next(&self) -> u64 {
        self.arrivals.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number of the last thing that happened.
    pub(crate) fn now(&self) -> u64 {
        self.arrivals.load(Ordering::SeqCst)
    }

    /// How many feeds and waits there are; one of many swamps counts for each.
    pub(crate) fn listening(&self) -> u64 {
        self.listening.load(Ordering::Relaxed)
    }

    /// A number that no other listener has. Given back with [`Hub::leave`].
    pub(crate) fn new_listener(&self) -> u64 {
        self.listening.fetch_add(1, Ordering::Relaxed);
        self.listeners.fetch_add(1, Ordering::Relaxed)
    }

    /// Joins the channel of a swamp whose state is given. `keeps`: how many changes are kept for those who come back.
    pub(crate) fn join(
        &self,
        shared: &Arc<Shared>,
        name: &SwampName,
        keeps: Option<u32>,
        state: &mut State,
    ) -> Result<Arc<Channel>> {
        let mut channels = self.channels.lock();
        if channels.is_closed {
            return Err(closing());
        }
        let named = channels.named.entry(name.clone());
        let channel = named.or_insert_with(|| Arc::new(Channel::new(Arc::downgrade(shared), self.next())));
        let channel = Arc::clone(channel);
        Audience::of(shared, name, state).named = Some(Arc::clone(&channel));
        channel.join(self, keeps, Some((name, state)));
        Ok(channel)
    }

    /// Joins the channel of a pattern. What of it is in memory is still to be attached.
    pub(crate) fn join_pattern(&self, shared: &Arc<Shared>, pattern: &Pattern, keeps: u32) -> Result<Arc<Channel>> {
        let mut channels = self.channels.lock();
        if channels.is_closed {
            return Err(closing());
        }
        let known = channels.patterns.iter().find(|(known, _)| known == pattern);
        let channel = match known {
            Some((_, channel)) => Arc::clone(channel),
            None => {
                let channel = Arc::new(Channel::new(Arc::downgrade(shared), self.next()));
                channels.patterns.push((pattern.clone(), Arc::clone(&channel)));
                channel
            }
        };
        channel.join(self, Some(keeps), None);
        Ok(channel)
    }

    /// A listener goes. Its channel stays as long as the swamp is in memory, and for a while in any case.
    pub(crate) fn leave(&self, shared: &Arc<Shared>, topic: &Topic, channel: &Arc<Channel>, listener: u64) {
        self.listening.fetch_sub(1, Ordering::Relaxed);
        if !channel.leave(listener) {
            return;
        }
        let (shared_then, topic, channel) = (Arc::downgrade(shared), topic.clone(), Arc::downgrade(channel));
        shared.timer.at(Instant::now() + LINGERS, move || {
            if let (Some(shared), Some(channel)) = (shared_then.upgrade(), channel.upgrade()) {
                shared.hub.remove(&topic, &channel);
            }
        });
    }

    fn remove(&self, topic: &Topic, channel: &Arc<Channel>) {
        let mut channels = self.channels.lock();
        if !channel.is_forsaken() {
            return;
        }
        match topic {
            Topic::Swamp(name) => {
                if channels.named.get(name).is_some_and(|known| Arc::ptr_eq(known, channel)) {
                    channels.named.remove(name);
                }
            }
            Topic::Pattern(_) => {
                channel.retire();
                channels.patterns.retain(|(_, known)| !Arc::ptr_eq(known, channel));
            }
        }
    }

    /// The swamp is read from disk, and nobody has seen it yet: whoever listens to it hears of it from now on.
    pub(crate) fn attach(&self, shared: &Arc<Shared>, name: &SwampName, state: &mut State) {
        let channels = self.channels.lock();
        let named = channels.named.get(name).cloned();
        let matching = channels.patterns.iter().filter(|(pattern, _)| pattern.matches(name));
        let patterns: Vec<_> = matching.map(|(_, channel)| Arc::clone(channel)).collect();
        if named.is_none() && patterns.is_empty() {
            return;
        }
        drop(channels);
        if let Some(channel) = &named {
            channel.attach(self, name, state);
        }
        patterns.iter().for_each(|channel| channel.attach_one(name, state));
        let audience = Audience::of(shared, name, state);
        (audience.named, audience.patterns) = (named, patterns);
    }

    /// A swamp in memory is one of those that a pattern stands for.
    pub(crate) fn attach_pattern(&self, shared: &Arc<Shared>, resident: &Resident, channel: &Arc<Channel>) {
        let mut state = resident.state.write();
        let audience = Audience::of(shared, resident.name(), &mut state);
        if !audience.patterns.iter().any(|known| Arc::ptr_eq(known, channel)) {
            audience.patterns.push(Arc::clone(channel));
            channel.attach_one(resident.name(), &state);
        }
    }

    /// The swamp leaves memory: what it was like is noted for those who listen.
    pub(crate) fn part(&self, name: &SwampName, state: &mut State, watch: impl FnOnce() -> Watch) {
        let Some(audience) = state.audience.take() else { return };
        let Some(channel) = audience.named else { return };
        let mut channels = self.channels.lock();
        if channel.part(state, watch) {
            channels.named.remove(name);
        }
    }

    /// Ends every feed of one swamp in a folder, and every wait: the folder has left.
    pub(crate) fn close_folder(&self, shared: &Shared, folder: crate::FolderId) {
        self.channels.lock().named.retain(|name, channel| {
            let stays = crate::folder::folder_of(name, shared.root.folders) != folder;
            if !stays {
                channel.close();
            }
            stays
        });
    }

    /// Ends every feed and every wait.
    pub(crate) fn close(&self) {
        let mut channels = self.channels.lock();
        channels.is_closed = true;
        channels.named.values().chain(channels.patterns.iter().map(|(_, channel)| channel)).for_each(|c| c.close());
        channels.named.clear();
        channels.patterns.clear();
    }

    /// Sees to it that files of others are looked for where somebody listens and nobody asks. Costs nothing where
    /// no folder is copied or nobody listens.
    pub(crate) fn poll_soon(&self, shared: &Arc<Shared>) {
        if !shared.folders.has_any_copied() || self.is_polling.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared_then = Arc::downgrade(shared);
        shared.timer.at(Instant::now() + shared.foreign_poll, move || {
            let Some(shared) = shared_then.upgrade() else { return };
            let pool = Arc::clone(&shared);
            pool.pool.run(move || {
                shared.hub.is_polling.store(false, Ordering::Release);
                if shared.hub.poll(&shared) {
                    shared.hub.poll_soon(&shared);
                }
            });
        });
    }

    /// Looks once; answers whether anybody listens.
    fn poll(&self, shared: &Arc<Shared>) -> bool {
        let listened_to: Vec<(SwampName, Arc<Channel>)> = {
            let channels = self.channels.lock();
            let named = channels.named.iter().filter(|(_, channel)| channel.is_listened_to());
            named.map(|(name, channel)| (name.clone(), Arc::clone(channel))).collect()
        };
        for (name, channel) in &listened_to {
            let folder = crate::folder::folder_of(name, shared.root.folders);
            if !shared.folders.is_copied(folder) || shared.check_open().is_err() {
                continue;
            }
            let looked = match shared.residents.get(name) {
                Some(resident) => resident.refresh_soon().map(drop),
                None => look_at_files(shared, name, folder, channel),
            };
            if let Err(error) = looked {
                tracing::warn!(swamp = %name, %error, "files of others could not be read; listeners are told later");
            }
        }
        !listened_to.is_empty()
    }
}

/// A swamp that is not in memory is read when its files are other ones than when it left.
fn look_at_files(shared: &Arc<Shared>, name: &SwampName, folder: crate::FolderId, channel: &Channel) -> Result<()> {
    let dir = layout::swamp_path(&shared.root.path, folder, name);
    match channel.watch() {
        Some(watch) if !watch.is_unchanged(shared, &dir) => shared.residents.hydrate_now(shared, name).map(drop),
        _ => Ok(()),
    }
}

fn closing() -> Error {
    Error::new(ErrorCode::Draining, "the engine is closing")
}

impl Audience {
    /// The audience of a state; an empty one where there was none.
    fn of<'s>(shared: &Arc<Shared>, name: &SwampName, state: &'s mut State) -> &'s mut Audience {
        let empty = || {
            let shared = Arc::downgrade(shared);
            Box::new(Audience { name: name.clone(), shared, named: None, patterns: Vec::new() })
        };
        state.audience.get_or_insert_with(empty)
    }

    /// Whether anybody has to be told.
    pub(crate) fn listens(&self) -> bool {
        self.named.as_ref().is_some_and(|channel| channel.is_live()) || self.patterns.iter().any(|one| one.is_live())
    }

    /// Tells what changed, before anybody else can change anything.
    pub(crate) fn tell(&self, news: News) {
        self.tell_all(&news.in_order());
    }

    /// Tells that everything was removed.
    pub(crate) fn tell_destroyed(&self) {
        self.tell_all(&[Arc::new(Change::Destroy)]);
    }

    fn tell_all(&self, changes: &[Arc<Change>]) {
        let Some(shared) = self.shared.upgrade().filter(|_| !changes.is_empty()) else { return };
        for channel in self.named.iter().chain(&self.patterns).filter(|channel| channel.is_live()) {
            channel.tell(&shared.hub, &self.name, changes);
        }
    }
}
