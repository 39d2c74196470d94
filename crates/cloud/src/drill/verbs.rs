//! Each port's verbs, as drill-backend calls them.

use mainstay_runtime::operation::EffectKey;

use super::Drill;
use crate::CloudError;
use crate::limits::{compute, dns, load_balancer, network, storage};
use crate::port::{
    Balancer, Compute, Dns, Instance, LoadBalancer, Net, Network, Receipt, Record, Rule, Snapshot, Storage, Task,
    Volume,
};

/// `METHOD(SPECIFICATION) = CLASS "VERB"`: the method has that effect.
macro_rules! verbs {
    ($port:ident: $($method:ident($($spec:ident: $Spec:ty)?) = $class:expr, $verb:literal;)+) => {
        impl $port for Drill<super::$port> {
            $(async fn $method(
                &self,
                key: &EffectKey,
                name: &str
                $(, $spec: &$Spec)?
            ) -> Result<Receipt, CloudError> {
                self.effect(&$class, key, $verb, name, &($($spec)?)).await
            })+
        }
    };
}

verbs! { Compute:
    launch(instance: Instance) = compute::LONG, "launch";
    start() = compute::EFFECT, "start";
    stop() = compute::EFFECT, "stop";
    delete() = compute::EFFECT, "delete";
    run_task(task: Task) = compute::LONG, "run-task";
    stop_task() = compute::EFFECT, "stop-task";
}

verbs! { Network:
    create(network: Net) = network::EFFECT, "create";
    delete() = network::EFFECT, "delete";
    add_rule(rule: Rule) = network::EFFECT, "add-rule";
    remove_rule() = network::EFFECT, "remove-rule";
}

verbs! { Storage:
    create(volume: Volume) = storage::EFFECT, "create";
    resize(volume: Volume) = storage::EFFECT, "resize";
    delete() = storage::EFFECT, "delete";
    snapshot(snapshot: Snapshot) = storage::LONG, "snapshot";
    delete_snapshot() = storage::EFFECT, "delete-snapshot";
}

verbs! { Dns:
    put_record(record: Record) = dns::EFFECT, "put-record";
    delete_record() = dns::EFFECT, "delete-record";
}

verbs! { LoadBalancer:
    deploy(balancer: Balancer) = load_balancer::LONG, "deploy";
    update(balancer: Balancer) = load_balancer::EFFECT, "update";
    remove() = load_balancer::EFFECT, "remove";
}
