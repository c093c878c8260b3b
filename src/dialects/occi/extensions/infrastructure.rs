//! Infrastructure: everything of GFD.184 (1.1) and of GFD.224 (1.2).

use serde_json::json;

use super::{action, attributes, core, kind, mixin, with_actions};
use crate::dialects::occi::model::{Action, Attribute, Attributes, Category, TypeId};

/// The scheme of the kinds.
pub const SCHEME: &str = "http://schemas.ogf.org/occi/infrastructure#";
/// The scheme of what computes can do.
pub const COMPUTE_ACTIONS: &str = "http://schemas.ogf.org/occi/infrastructure/compute/action#";
/// The scheme of what networks can do.
pub const NETWORK_ACTIONS: &str = "http://schemas.ogf.org/occi/infrastructure/network/action#";
/// The scheme of what storages can do.
pub const STORAGE_ACTIONS: &str = "http://schemas.ogf.org/occi/infrastructure/storage/action#";

/// A machine, virtual or not, or a container.
pub fn compute() -> TypeId {
    TypeId::fixed(SCHEME, "compute")
}

/// A network.
pub fn network() -> TypeId {
    TypeId::fixed(SCHEME, "network")
}

/// A storage.
pub fn storage() -> TypeId {
    TypeId::fixed(SCHEME, "storage")
}

/// The link from a compute to a network.
pub fn networkinterface() -> TypeId {
    TypeId::fixed(SCHEME, "networkinterface")
}

/// The link from a compute to a storage.
pub fn storagelink() -> TypeId {
    TypeId::fixed(SCHEME, "storagelink")
}

/// It begins in `first`.
fn state(states: &[&str], first: &str) -> Attribute {
    Attribute::one_of(states).immutable().required().default_value(first).about("the state it is in")
}

fn message() -> Attribute {
    Attribute::text().immutable().about("why it is in this state")
}

fn compute_categories() -> Vec<Category> {
    let whole = || Attribute::number().pattern(json!({ "type": "integer", "minimum": 1 }));
    let of_computes = attributes([
        ("occi.compute.architecture", Attribute::one_of(&["x86", "x64"]).about("the CPU architecture")),
        ("occi.compute.cores", whole().about("the number of cores")),
        ("occi.compute.hostname", Attribute::text().about("the name in the network")),
        ("occi.compute.share", whole().about("the relative share of CPUs (1.2)")),
        ("occi.compute.speed", Attribute::at_least(0.0).about("the clock, in GHz (1.1)")),
        ("occi.compute.memory", Attribute::at_least(0.0).about("the memory, in GiB")),
        ("occi.compute.state", state(&["active", "inactive", "suspended", "error"], "inactive")),
        ("occi.compute.state.message", message()),
    ]);
    let method = |words: &[&str]| attributes([("method", Attribute::one_of(words))]);
    let save = attributes([
        ("method", Attribute::one_of(&["hot", "deferred"])),
        ("name", Attribute::text().about("the name of the template that is made")),
    ]);
    let verb = |term, title, attributes| action(COMPUTE_ACTIONS, term, title, attributes);
    let actions = vec![
        verb("start", "start the compute", Attributes::new()),
        verb("stop", "stop the compute", method(&["graceful", "acpioff", "poweroff"])),
        verb("restart", "restart the compute", method(&["graceful", "warm", "cold"])),
        verb("suspend", "suspend the compute", method(&["hibernate", "suspend"])),
        verb("save", "make a template of the compute", save),
    ];
    with_actions(kind(compute(), "Compute Resource", core::resource(), "/compute/", of_computes), actions)
}

fn network_categories() -> Vec<Category> {
    let vlan = Attribute::number().pattern(json!({ "type": "integer", "minimum": 0, "maximum": 4095 }));
    let of_networks = attributes([
        ("occi.network.vlan", vlan.about("the identifier of the virtual network (802.1q)")),
        ("occi.network.label", Attribute::text().about("a tag of the virtual network")),
        ("occi.network.state", state(&["active", "inactive", "error"], "inactive")),
        ("occi.network.state.message", message()),
    ]);
    let plain = |term, title| action(NETWORK_ACTIONS, term, title, Attributes::new());
    let actions = vec![plain("up", "take the network up"), plain("down", "take the network down")];
    with_actions(kind(network(), "Network Resource", core::resource(), "/network/", of_networks), actions)
}

fn storage_categories() -> Vec<Category> {
    let size = || Attribute::at_least(0.0).required().about("the size, in GiB");
    let states = ["online", "offline", "backup", "snapshot", "resize", "degraded", "error"];
    let of_storages = attributes([
        ("occi.storage.size", size()),
        ("occi.storage.state", state(&states, "offline")),
        ("occi.storage.state.message", message()),
    ]);
    let plain = |term, title| action(STORAGE_ACTIONS, term, title, Attributes::new());
    let resize = |parameters: [(&str, Attribute); 1]| -> Action {
        action(STORAGE_ACTIONS, "resize", "resize the storage (1.1)", attributes(parameters))
    };
    let actions = vec![
        plain("online", "bring the storage online"),
        plain("offline", "take the storage offline"),
        plain("backup", "back the storage up (1.1)"),
        plain("snapshot", "take a snapshot of the storage (1.1)"),
        resize([("size", size())]),
    ];
    with_actions(kind(storage(), "Storage Resource", core::resource(), "/storage/", of_storages), actions)
}

fn links() -> Vec<Category> {
    let of_interfaces = attributes([
        ("occi.networkinterface.interface", Attribute::text().immutable().about("the device, as eth0")),
        ("occi.networkinterface.mac", Attribute::text().about("the MAC address")),
        ("occi.networkinterface.state", state(&["active", "inactive", "error"], "inactive")),
        ("occi.networkinterface.state.message", message()),
    ]);
    let of_storage_links = attributes([
        ("occi.storagelink.deviceid", Attribute::text().about("the device, as /dev/sdb")),
        ("occi.storagelink.mountpoint", Attribute::text().about("where it is mounted")),
        ("occi.storagelink.state", state(&["active", "inactive", "error"], "inactive")),
        ("occi.storagelink.state.message", message()),
    ]);
    let interface =
        kind(networkinterface(), "Network Interface", core::link(), "/networkinterface/", of_interfaces);
    vec![
        Category::Kind(interface),
        Category::Kind(kind(storagelink(), "Storage Link", core::link(), "/storagelink/", of_storage_links)),
    ]
}

fn addresses(prefix: &str) -> Attributes {
    let named = |name: &str| format!("{prefix}.{name}");
    [
        (named("address"), Attribute::text().about("IPv4 or IPv6 address, of a network with its prefix")),
        (named("gateway"), Attribute::text().about("the address of the gateway")),
        (named("allocation"), Attribute::one_of(&["dynamic", "static"]).about("how addresses are given")),
    ]
    .into()
}

fn mixins() -> Vec<Category> {
    let at = |path: &str, term: &str| {
        TypeId::fixed(&format!("http://schemas.ogf.org/occi/infrastructure{path}#"), term)
    };
    let key = attributes([("occi.credentials.ssh.publickey", Attribute::text().required().about("the key"))]);
    let data = attributes([("occi.compute.userdata", Attribute::text().required().about("the data"))]);
    let none = Attributes::new;
    [
        mixin(at("/network", "ipnetwork"), "IP Network", &[network()], addresses("occi.network")),
        mixin(
            at("/networkinterface", "ipnetworkinterface"),
            "IP Network Interface",
            &[networkinterface()],
            addresses("occi.networkinterface"),
        ),
        mixin(at("", "os_tpl"), "Operating System Template", &[compute()], none()),
        mixin(at("", "resource_tpl"), "Resource Template", &[compute()], none()),
        mixin(at("/credentials", "ssh_key"), "SSH Key", &[compute()], key),
        mixin(at("/compute", "user_data"), "User Data", &[compute()], data),
    ]
    .into_iter()
    .map(Category::Mixin)
    .collect()
}

/// All categories of the extension.
pub fn categories() -> Vec<Category> {
    let parts = [compute_categories(), network_categories(), storage_categories(), links(), mixins()];
    parts.into_iter().flatten().collect()
}
