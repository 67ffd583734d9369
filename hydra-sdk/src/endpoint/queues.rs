//! Shifts and locks, on servers and in this process.

use std::time::Duration;

use hydra_core::duration::format_duration;
use hydra_core::wire::{LockBody, LockedBody, RenewBody, ShiftBody, header, lock_path, swamp_path};
use hydra_core::{ErrorCode, Idempotency, Lock, LockInfo, LockRequest, Shift, ShiftRequest, SwampName, Value};
use reqwest::Method;
use serde::Serialize;

use super::embedded::Embedded;
use super::remote::{Found, JSON, from_body, keyed, read, sync_of, unreadable};
use super::{Locking, WriteOptions};
use crate::cluster::{CallOptions, Cluster};
use crate::error::{Error, ErrorKind, Result};
use crate::failover::Answered;
use crate::outcome::Answer;
use crate::request::{Request, with_query};
use crate::settings::OpClass;
use crate::treasure::Treasure;

impl Cluster {
    pub(super) async fn shift(
        &self,
        name: &SwampName,
        shift: &Shift,
        wait: Duration,
        options: &WriteOptions,
    ) -> Result<Vec<Treasure<Value>>> {
        let mut query = vec![("n", shift.take.to_string()), ("by", shift.order.to_string())];
        query.extend(shift.descending.then(|| ("dir", "desc".to_owned())));
        query.extend(shift.due.then(|| ("only", "due".to_owned())));
        query.extend(shift.lease.map(|lease| ("lease", format_duration(lease))));
        query.extend((!wait.is_zero()).then(|| ("wait", format_duration(wait))));
        query.extend(sync_of(options));
        let target = with_query(format!("{}/shift", swamp_path(name)), &query);
        let request = keyed(Request::new(OpClass::Exclusive, Method::POST, target), options);
        let call = CallOptions { is_bulk: true, patience: wait, ..options.call.clone() };
        let Answered { answer, .. } = self.call(name, &request, &call).await?;
        let body: ShiftBody = read(&answer)?;
        let stale = answer.is_stale();
        body.treasures.into_iter().map(|treasure| from_body(treasure, stale)).collect()
    }

    pub(super) async fn lock(
        &self,
        name: &SwampName,
        lock: &str,
        locking: &Locking,
        options: &WriteOptions,
    ) -> Result<Option<Lock>> {
        let Locking { ttl, wait, owner } = locking.clone();
        let body = LockBody { ttl, wait, owner };
        let request = keyed(Request::new(OpClass::Exclusive, Method::POST, lock_path(name, lock)), options);
        let call = CallOptions { patience: wait, ..options.call.clone() };
        let Answered { answer, .. } = self.call(name, &request.body(JSON, written(&body)?), &call).await?;
        if answer.status == 409 && answer.code() == Some(ErrorCode::LockHeld) {
            return Ok(None);
        }
        lock_of(&answer).map(Some)
    }

    pub(super) async fn renew_lock(
        &self,
        name: &SwampName,
        lock: &str,
        token: &str,
        ttl: Duration,
        options: &CallOptions,
    ) -> Result<Option<Lock>> {
        let request = Request::new(OpClass::Exclusive, Method::PUT, lock_path(name, lock));
        let request = request.header(header::LOCK_TOKEN, token).body(JSON, written(&RenewBody { ttl })?);
        let Answered { answer, .. } = self.call(name, &request, options).await?;
        if is_lost(&answer) { Ok(None) } else { lock_of(&answer).map(Some) }
    }

    pub(super) async fn release_lock(
        &self,
        name: &SwampName,
        lock: &str,
        token: &str,
        options: &CallOptions,
    ) -> Result<bool> {
        let request = Request::new(OpClass::Exclusive, Method::DELETE, lock_path(name, lock));
        let Answered { answer, .. } = self.call(name, &request.header(header::LOCK_TOKEN, token), options).await?;
        if is_lost(&answer) { Ok(false) } else { Found::of(&answer).map(|_| true) }
    }

    pub(super) async fn lock_info(
        &self,
        name: &SwampName,
        lock: &str,
        options: &CallOptions,
    ) -> Result<Option<LockInfo>> {
        let request = Request::new(OpClass::Read, Method::GET, lock_path(name, lock));
        let Answered { answer, .. } = self.call(name, &request, options).await?;
        match Found::of(&answer)? {
            Found::Nothing => Ok(None),
            Found::Something => {
                let body: LockedBody = read(&answer)?;
                Ok(Some(LockInfo { fence: fence_of(&body)?, owner: body.owner, expires_at: body.expires_at }))
            }
        }
    }
}

fn written<T: Serialize>(body: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(body)
        .map_err(|error| Error::new(ErrorKind::Invalid, format!("the request cannot be written as JSON: {error}")))
}

/// Whether the server answered that the lock is not held with this token.
fn is_lost(answer: &Answer) -> bool {
    answer.status == 412 && answer.code() == Some(ErrorCode::LockTokenMismatch)
}

fn lock_of(answer: &Answer) -> Result<Lock> {
    let body: LockedBody = read(answer)?;
    let fence = fence_of(&body)?;
    let token = body.token.ok_or_else(|| unreadable("a lock without its token"))?;
    Ok(Lock { token, fence, expires_at: body.expires_at })
}

fn fence_of(body: &LockedBody) -> Result<u64> {
    body.fence.parse().map_err(|_| unreadable("a fence that is no number"))
}

impl Embedded {
    pub(super) async fn shift(
        &self,
        name: &SwampName,
        shift: &Shift,
        wait: Duration,
        options: &WriteOptions,
    ) -> Result<Vec<Treasure<Value>>> {
        let idempotency = idempotency(options, &format!("shift {shift:?} {wait:?}"));
        let request =
            ShiftRequest { shift: shift.clone(), wait, idempotency, sync: options.sync, ..ShiftRequest::default() };
        let shifted = self.engine().shift(name, request).await?;
        Ok(shifted.treasures.into_iter().map(Treasure::from).collect())
    }

    pub(super) async fn lock(
        &self,
        name: &SwampName,
        lock: &str,
        locking: &Locking,
        options: &WriteOptions,
    ) -> Result<Option<Lock>> {
        let mut request = LockRequest::new(locking.ttl);
        (request.wait, request.owner) = (locking.wait, locking.owner.clone());
        request.idempotency = idempotency(options, &format!("lock {lock:?} {locking:?}"));
        match self.engine().lock(name, lock, request).await {
            Ok(granted) => Ok(Some(granted.lock)),
            Err(error) if error.code() == ErrorCode::LockHeld => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn renew_lock(
        &self,
        name: &SwampName,
        lock: &str,
        token: &str,
        ttl: Duration,
        _: &CallOptions,
    ) -> Result<Option<Lock>> {
        held(self.engine().renew_lock(name, lock, token, ttl, None).await)
    }

    pub(super) async fn release_lock(
        &self,
        name: &SwampName,
        lock: &str,
        token: &str,
        _: &CallOptions,
    ) -> Result<bool> {
        Ok(held(self.engine().release_lock(name, lock, token, None).await)?.is_some())
    }

    pub(super) async fn lock_info(&self, name: &SwampName, lock: &str, _: &CallOptions) -> Result<Option<LockInfo>> {
        Ok(self.swamp(name).await?.lock_info(lock)?)
    }
}

/// `None` for a lock that is not held any more.
fn held<T>(outcome: hydra_core::Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.code() == ErrorCode::LockTokenMismatch => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The key that was given, with a fingerprint of what it stands for.
fn idempotency(options: &WriteOptions, what: &str) -> Option<Idempotency> {
    // The key of a long text is its hash, which is just what a fingerprint is.
    let fingerprint = Idempotency::new(what, 0).key as u64;
    options.idempotency_key.as_deref().map(|key| Idempotency::new(key, fingerprint))
}
