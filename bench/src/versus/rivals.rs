//! The engines that are compared, behind one trait: tenants with keys and values.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use fjall::{Database as FjallDatabase, Keyspace, KeyspaceCreateOptions, PersistMode};
use hydra_core::{Batch, Condition, Engine, EngineOptions, Expiry, Op, Policy, SwampName, Value};
use redb::{Database as RedbDatabase, Durability, ReadableDatabase, TableDefinition};
use rusqlite::{Connection, OptionalExtension};
use std::sync::Mutex;

use super::Writes;

/// An engine under measurement.
pub(crate) trait Rival: Sync {
    /// Makes ready the handles that a program would keep for so many tenants.
    fn prepare(&mut self, tenants: usize) -> anyhow::Result<()>;
    fn put(&self, tenant: usize, key: &str, value: &[u8]) -> anyhow::Result<()>;
    /// Reads a value that is there.
    fn get(&self, tenant: usize, key: &str) -> anyhow::Result<()>;
    /// Many records in the way that is quickest: in batches or one transaction.
    fn fill(&self, tenant: usize, keys: &[String], value: &[u8]) -> anyhow::Result<()>;
    /// Everything put before is on disk.
    fn flush(&self) -> anyhow::Result<()>;
}

fn check(value: Option<&[u8]>) -> anyhow::Result<()> {
    ensure!(value.is_some_and(|value| value.len() == super::VALUE_BYTES), "the value is not there");
    Ok(())
}

/// Hydra: a swamp for each tenant.
pub(crate) struct Hydra {
    engine: Engine,
    names: Vec<SwampName>,
}

impl Hydra {
    pub(crate) fn open(dir: &Path, writes: Writes) -> anyhow::Result<Hydra> {
        let mut options = EngineOptions::new(dir);
        let write_interval = if writes == Writes::Synced { Duration::ZERO } else { Duration::from_secs(1) };
        options.default_policy = Policy { write_interval, ..Policy::default() };
        Ok(Hydra { engine: Engine::open(options)?, names: Vec::new() })
    }

    fn with_name<T>(&self, tenant: usize, act: impl FnOnce(&SwampName) -> hydra_core::Result<T>) -> anyhow::Result<T> {
        match self.names.get(tenant) {
            Some(name) => Ok(act(name)?),
            None => Ok(act(&format!("bench/tenants/{tenant}").parse()?)?),
        }
    }
}

impl Rival for Hydra {
    fn prepare(&mut self, tenants: usize) -> anyhow::Result<()> {
        self.names = (0..tenants).map(|n| format!("bench/tenants/{n}").parse()).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn put(&self, tenant: usize, key: &str, value: &[u8]) -> anyhow::Result<()> {
        // The text is checked, as it is for every caller.
        let value = Value::json(std::str::from_utf8(value)?)?;
        self.with_name(tenant, |name| self.engine.put(name, key, value)).map(drop)
    }

    fn get(&self, tenant: usize, key: &str) -> anyhow::Result<()> {
        let treasure = self.with_name(tenant, |name| self.engine.get(name, key))?;
        check(treasure.as_ref().map(|treasure| treasure.value.as_bytes()))
    }

    fn fill(&self, tenant: usize, keys: &[String], value: &[u8]) -> anyhow::Result<()> {
        let value = Value::json(std::str::from_utf8(value)?)?;
        let put = |key: &String| Op::Put {
            key: key.clone(),
            value: value.clone(),
            expiry: Expiry::Never,
            condition: Condition::Always,
        };
        for part in keys.chunks(1_000) {
            let batch = Batch { ops: part.iter().map(put).collect(), ..Batch::default() };
            self.with_name(tenant, |name| self.engine.batch(name, batch))?;
        }
        Ok(())
    }

    fn flush(&self) -> anyhow::Result<()> {
        Ok(self.engine.flush(None)?)
    }
}

fn joined(tenant: usize, key: &str) -> String {
    format!("{tenant:07}/{key}")
}

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tenants");

/// redb: one file, the tenant in front of the key.
pub(crate) struct Redb {
    database: RedbDatabase,
    durability: Durability,
}

impl Redb {
    pub(crate) fn open(dir: &Path, writes: Writes) -> anyhow::Result<Redb> {
        std::fs::create_dir_all(dir)?;
        let database = RedbDatabase::create(dir.join("redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        let durability = if writes == Writes::Synced { Durability::Immediate } else { Durability::None };
        Ok(Redb { database, durability })
    }

    fn write(&self, records: impl Iterator<Item = String>, value: &[u8], durability: Durability) -> anyhow::Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for key in records {
                table.insert(key.as_str(), value)?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Rival for Redb {
    fn prepare(&mut self, _: usize) -> anyhow::Result<()> {
        Ok(())
    }

    fn put(&self, tenant: usize, key: &str, value: &[u8]) -> anyhow::Result<()> {
        self.write(std::iter::once(joined(tenant, key)), value, self.durability)
    }

    fn get(&self, tenant: usize, key: &str) -> anyhow::Result<()> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let value = table.get(joined(tenant, key).as_str())?;
        check(value.as_ref().map(|value| value.value()))
    }

    fn fill(&self, tenant: usize, keys: &[String], value: &[u8]) -> anyhow::Result<()> {
        self.write(keys.iter().map(|key| joined(tenant, key)), value, self.durability)
    }

    fn flush(&self) -> anyhow::Result<()> {
        self.write(std::iter::empty(), &[], Durability::Immediate)
    }
}

/// fjall: one keyspace, the tenant in front of the key.
pub(crate) struct Fjall {
    database: FjallDatabase,
    keyspace: Keyspace,
    writes: Writes,
}

impl Fjall {
    pub(crate) fn open(dir: &Path, writes: Writes) -> anyhow::Result<Fjall> {
        let database = FjallDatabase::builder(dir).open()?;
        let keyspace = database.keyspace("tenants", KeyspaceCreateOptions::default)?;
        Ok(Fjall { database, keyspace, writes })
    }
}

impl Rival for Fjall {
    fn prepare(&mut self, _: usize) -> anyhow::Result<()> {
        Ok(())
    }

    fn put(&self, tenant: usize, key: &str, value: &[u8]) -> anyhow::Result<()> {
        self.keyspace.insert(joined(tenant, key), value)?;
        if self.writes == Writes::Synced { Ok(self.database.persist(PersistMode::SyncData)?) } else { Ok(()) }
    }

    fn get(&self, tenant: usize, key: &str) -> anyhow::Result<()> {
        check(self.keyspace.get(joined(tenant, key))?.as_deref())
    }

    fn fill(&self, tenant: usize, keys: &[String], value: &[u8]) -> anyhow::Result<()> {
        keys.iter().try_for_each(|key| self.keyspace.insert(joined(tenant, key), value))?;
        Ok(())
    }

    fn flush(&self) -> anyhow::Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

/// SQLite: a file for each tenant.
pub(crate) struct Sqlite {
    dir: PathBuf,
    writes: Writes,
    connections: Vec<Mutex<Connection>>,
}

const UPSERT: &str = "INSERT INTO treasures VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

impl Sqlite {
    pub(crate) fn open(dir: &Path, writes: Writes) -> anyhow::Result<Sqlite> {
        std::fs::create_dir_all(dir)?;
        Ok(Sqlite { dir: dir.to_owned(), writes, connections: Vec::new() })
    }

    fn connect(&self, tenant: usize) -> anyhow::Result<Connection> {
        let connection = Connection::open(self.dir.join(format!("{tenant}.sqlite")))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = if self.writes == Writes::Synced { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.execute(
            "CREATE TABLE IF NOT EXISTS treasures (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
            (),
        )?;
        Ok(connection)
    }

    /// A kept connection, or one for this call alone.
    fn with<T>(&self, tenant: usize, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> anyhow::Result<T> {
        match self.connections.get(tenant) {
            Some(connection) => {
                let connection = connection.lock().ok().context("a writer panicked")?;
                Ok(act(&connection)?)
            }
            None => Ok(act(&self.connect(tenant)?)?),
        }
    }
}

impl Rival for Sqlite {
    fn prepare(&mut self, tenants: usize) -> anyhow::Result<()> {
        self.connections = (0..tenants).map(|n| self.connect(n).map(Mutex::new)).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn put(&self, tenant: usize, key: &str, value: &[u8]) -> anyhow::Result<()> {
        self.with(tenant, |connection| connection.prepare_cached(UPSERT)?.execute((key, value)).map(drop))
    }

    fn get(&self, tenant: usize, key: &str) -> anyhow::Result<()> {
        let value: Option<Vec<u8>> = self.with(tenant, |connection| {
            let mut statement = connection.prepare_cached("SELECT value FROM treasures WHERE key = ?1")?;
            statement.query_row([key], |row| row.get(0)).optional()
        })?;
        check(value.as_deref())
    }

    fn fill(&self, tenant: usize, keys: &[String], value: &[u8]) -> anyhow::Result<()> {
        self.with(tenant, |connection| {
            let transaction = connection.unchecked_transaction()?;
            keys.iter().try_for_each(|key| connection.prepare_cached(UPSERT)?.execute((key, value)).map(drop))?;
            transaction.commit()
        })
    }

    /// The log is synced when it is taken over into the database.
    fn flush(&self) -> anyhow::Result<()> {
        let checkpoint = |connection: &Mutex<Connection>| -> anyhow::Result<()> {
            let connection = connection.lock().ok().context("a writer panicked")?;
            Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?)
        };
        self.connections.iter().try_for_each(checkpoint)
    }
}
