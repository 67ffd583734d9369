//! Query parameters, read as strictly as everywhere; see [`hydra_core::wire::Parameters`].

pub(crate) use hydra_core::wire::{Parameters as Query, invalid_parameter as invalid};
