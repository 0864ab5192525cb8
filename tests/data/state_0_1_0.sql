-- The control plane's database as release 0.1.0 made it, with one bound interface.
BEGIN TRANSACTION;
CREATE TABLE account (
	id INTEGER NOT NULL, 
	account_id VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	session_key BLOB NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE addresses (
	number INTEGER NOT NULL, 
	interface_id VARCHAR NOT NULL, 
	subnet_id VARCHAR NOT NULL, 
	family INTEGER NOT NULL, 
	"primary" BOOLEAN NOT NULL, 
	address VARCHAR NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (subnet_id, address), 
	FOREIGN KEY(interface_id) REFERENCES network_interfaces (interface_id) ON DELETE CASCADE, 
	FOREIGN KEY(subnet_id) REFERENCES subnets (subnet_id)
);
INSERT INTO "addresses" VALUES(1,'eni-0a','subnet-0a',4,1,'10.0.0.10',167772170);
CREATE TABLE agents (
	name VARCHAR NOT NULL, 
	access_key_id VARCHAR, 
	revision BIGINT NOT NULL, 
	created_ms BIGINT NOT NULL, 
	status JSON, 
	received_ms BIGINT, 
	PRIMARY KEY (name)
);
INSERT INTO "agents" VALUES('web1',NULL,1700000000001,1700000000000,NULL,NULL);
CREATE TABLE bindings (
	interface_id VARCHAR NOT NULL, 
	agent VARCHAR NOT NULL, 
	device VARCHAR NOT NULL, 
	instance_id VARCHAR, 
	interface_type VARCHAR, 
	requester_id VARCHAR, 
	enforce BOOLEAN NOT NULL, 
	allow JSON, 
	attachment_id VARCHAR NOT NULL, 
	attached_ms BIGINT NOT NULL, 
	revision BIGINT NOT NULL, 
	state VARCHAR NOT NULL, 
	message VARCHAR, 
	mode VARCHAR, 
	PRIMARY KEY (interface_id), 
	UNIQUE (agent, device), 
	FOREIGN KEY(interface_id) REFERENCES network_interfaces (interface_id), 
	FOREIGN KEY(agent) REFERENCES agents (name)
);
INSERT INTO "bindings" VALUES('eni-0a','web1','vn-a',NULL,NULL,NULL,1,NULL,'eni-attach-0a',4,1700000000001,'attached',NULL,'tcx');
CREATE TABLE client_tokens (
	operation VARCHAR NOT NULL, 
	token VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	answer JSON NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (operation, token)
);
CREATE TABLE flow_log_deliveries (
	flow_log_id VARCHAR NOT NULL, 
	agent VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	message VARCHAR, 
	PRIMARY KEY (flow_log_id, agent), 
	FOREIGN KEY(flow_log_id) REFERENCES flow_logs (flow_log_id) ON DELETE CASCADE, 
	FOREIGN KEY(agent) REFERENCES agents (name)
);
CREATE TABLE flow_log_tag_fields (
	number INTEGER NOT NULL, 
	flow_log_id VARCHAR NOT NULL, 
	resource_type VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	PRIMARY KEY (number), 
	FOREIGN KEY(flow_log_id) REFERENCES flow_logs (flow_log_id) ON DELETE CASCADE
);
CREATE TABLE flow_logs (
	number INTEGER NOT NULL, 
	flow_log_id VARCHAR NOT NULL, 
	resource_id VARCHAR NOT NULL, 
	resource_type VARCHAR NOT NULL, 
	traffic_type VARCHAR NOT NULL, 
	log_destination_type VARCHAR NOT NULL, 
	log_destination VARCHAR, 
	log_group_name VARCHAR NOT NULL, 
	deliver_logs_permission_arn VARCHAR NOT NULL, 
	log_format VARCHAR NOT NULL, 
	max_aggregation_interval INTEGER NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (flow_log_id)
);
CREATE TABLE iam_access_key (
	access_key_id VARCHAR(32) NOT NULL, 
	secret_access_key VARCHAR(64) NOT NULL, 
	user_key VARCHAR(64), 
	agent VARCHAR(128), 
	status VARCHAR(8) NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (access_key_id), 
	FOREIGN KEY(user_key) REFERENCES iam_user (name_key)
);
CREATE TABLE iam_inline_policy (
	owner_id VARCHAR(32) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY (owner_id, name)
);
CREATE TABLE iam_role (
	name_key VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	path VARCHAR(512) NOT NULL, 
	role_id VARCHAR(32) NOT NULL, 
	trust_policy TEXT NOT NULL, 
	description TEXT, 
	max_session_seconds INTEGER NOT NULL, 
	tags TEXT NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (name_key), 
	UNIQUE (role_id)
);
CREATE TABLE iam_user (
	name_key VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	path VARCHAR(512) NOT NULL, 
	user_id VARCHAR(32) NOT NULL, 
	tags TEXT NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (name_key), 
	UNIQUE (user_id)
);
CREATE TABLE interface_groups (
	interface_id VARCHAR NOT NULL, 
	group_id VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	PRIMARY KEY (interface_id, group_id), 
	FOREIGN KEY(interface_id) REFERENCES network_interfaces (interface_id) ON DELETE CASCADE, 
	FOREIGN KEY(group_id) REFERENCES security_groups (group_id)
);
CREATE TABLE internet_gateways (
	number INTEGER NOT NULL, 
	gateway_id VARCHAR NOT NULL, 
	vpc_id VARCHAR, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (gateway_id), 
	UNIQUE (vpc_id), 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id)
);
CREATE TABLE log_grave (
	group_id INTEGER NOT NULL, 
	stream_id INTEGER NOT NULL, 
	PRIMARY KEY (group_id, stream_id)
);
CREATE TABLE log_group (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR(512) NOT NULL, 
	creation_ms BIGINT NOT NULL, 
	retention_days INTEGER, 
	log_class VARCHAR(32) NOT NULL, 
	deletion_protection BOOLEAN NOT NULL, 
	stored_bytes BIGINT NOT NULL, 
	UNIQUE (name)
);
CREATE TABLE log_group_tag (
	group_id INTEGER NOT NULL, 
	"key" VARCHAR(128) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (group_id, "key"), 
	FOREIGN KEY(group_id) REFERENCES log_group (id) ON DELETE CASCADE
);
CREATE TABLE log_progress (
	id INTEGER NOT NULL, 
	sequence BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE log_stream (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	group_id INTEGER NOT NULL, 
	name VARCHAR(512) NOT NULL, 
	creation_ms BIGINT NOT NULL, 
	first_ms BIGINT, 
	last_ms BIGINT, 
	ingestion_ms BIGINT, 
	events BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	FOREIGN KEY(group_id) REFERENCES log_group (id) ON DELETE CASCADE
);
CREATE TABLE nat_gateways (
	number INTEGER NOT NULL, 
	nat_gateway_id VARCHAR NOT NULL, 
	subnet_id VARCHAR NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	interface_id VARCHAR NOT NULL, 
	connectivity_type VARCHAR NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (nat_gateway_id), 
	FOREIGN KEY(subnet_id) REFERENCES subnets (subnet_id), 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id), 
	UNIQUE (interface_id), 
	FOREIGN KEY(interface_id) REFERENCES network_interfaces (interface_id)
);
CREATE TABLE network_acl_associations (
	number INTEGER NOT NULL, 
	association_id VARCHAR NOT NULL, 
	subnet_id VARCHAR NOT NULL, 
	acl_id VARCHAR NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (association_id), 
	UNIQUE (subnet_id), 
	FOREIGN KEY(subnet_id) REFERENCES subnets (subnet_id) ON DELETE CASCADE, 
	FOREIGN KEY(acl_id) REFERENCES network_acls (acl_id)
);
CREATE TABLE network_acl_entries (
	number INTEGER NOT NULL, 
	acl_id VARCHAR NOT NULL, 
	rule_number INTEGER NOT NULL, 
	egress BOOLEAN NOT NULL, 
	protocol INTEGER NOT NULL, 
	allow BOOLEAN NOT NULL, 
	cidr VARCHAR NOT NULL, 
	from_port INTEGER NOT NULL, 
	to_port INTEGER NOT NULL, 
	icmp_type INTEGER NOT NULL, 
	icmp_code INTEGER NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (acl_id, egress, rule_number), 
	FOREIGN KEY(acl_id) REFERENCES network_acls (acl_id) ON DELETE CASCADE
);
CREATE TABLE network_acls (
	number INTEGER NOT NULL, 
	acl_id VARCHAR NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	is_default BOOLEAN NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (acl_id), 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id) ON DELETE CASCADE
);
CREATE TABLE network_interfaces (
	number INTEGER NOT NULL, 
	interface_id VARCHAR NOT NULL, 
	subnet_id VARCHAR NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	mac VARCHAR NOT NULL, 
	description VARCHAR NOT NULL, 
	created_type VARCHAR NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (interface_id), 
	FOREIGN KEY(subnet_id) REFERENCES subnets (subnet_id), 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id), 
	UNIQUE (mac)
);
INSERT INTO "network_interfaces" VALUES(1,'eni-0a','subnet-0a','vpc-0a','02:00:00:00:00:01','','interface',3);
CREATE TABLE prefix_list_entries (
	number INTEGER NOT NULL, 
	prefix_list_id VARCHAR NOT NULL, 
	cidr VARCHAR NOT NULL, 
	description VARCHAR, 
	added BIGINT NOT NULL, 
	removed BIGINT, 
	PRIMARY KEY (number), 
	FOREIGN KEY(prefix_list_id) REFERENCES prefix_lists (prefix_list_id) ON DELETE CASCADE
);
CREATE TABLE prefix_lists (
	number INTEGER NOT NULL, 
	prefix_list_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	family INTEGER NOT NULL, 
	max_entries INTEGER NOT NULL, 
	version BIGINT NOT NULL, 
	state VARCHAR NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (prefix_list_id)
);
CREATE TABLE revision (
	id INTEGER NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "revision" VALUES(1,1700000000002);
CREATE TABLE route_table_associations (
	number INTEGER NOT NULL, 
	association_id VARCHAR NOT NULL, 
	route_table_id VARCHAR NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	subnet_id VARCHAR, 
	PRIMARY KEY (number), 
	UNIQUE (association_id), 
	FOREIGN KEY(route_table_id) REFERENCES route_tables (route_table_id) ON DELETE CASCADE, 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id) ON DELETE CASCADE, 
	UNIQUE (subnet_id), 
	FOREIGN KEY(subnet_id) REFERENCES subnets (subnet_id) ON DELETE CASCADE
);
CREATE TABLE route_tables (
	number INTEGER NOT NULL, 
	route_table_id VARCHAR NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (route_table_id), 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id) ON DELETE CASCADE
);
CREATE TABLE routes (
	number INTEGER NOT NULL, 
	route_table_id VARCHAR NOT NULL, 
	destination VARCHAR NOT NULL, 
	target VARCHAR NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (route_table_id, destination), 
	FOREIGN KEY(route_table_id) REFERENCES route_tables (route_table_id) ON DELETE CASCADE
);
CREATE TABLE security_group_rules (
	number INTEGER NOT NULL, 
	rule_id VARCHAR NOT NULL, 
	group_id VARCHAR NOT NULL, 
	egress BOOLEAN NOT NULL, 
	protocol INTEGER NOT NULL, 
	from_port INTEGER NOT NULL, 
	to_port INTEGER NOT NULL, 
	cidr VARCHAR, 
	referenced_group_id VARCHAR, 
	prefix_list_id VARCHAR, 
	description VARCHAR, 
	PRIMARY KEY (number), 
	UNIQUE (rule_id), 
	FOREIGN KEY(group_id) REFERENCES security_groups (group_id) ON DELETE CASCADE, 
	FOREIGN KEY(referenced_group_id) REFERENCES security_groups (group_id) ON DELETE CASCADE, 
	FOREIGN KEY(prefix_list_id) REFERENCES prefix_lists (prefix_list_id)
);
CREATE TABLE security_groups (
	number INTEGER NOT NULL, 
	group_id VARCHAR NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	name_key VARCHAR NOT NULL, 
	description VARCHAR NOT NULL, 
	is_default BOOLEAN NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (vpc_id, name_key), 
	UNIQUE (group_id), 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id) ON DELETE CASCADE
);
CREATE TABLE subnets (
	number INTEGER NOT NULL, 
	subnet_id VARCHAR NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	cidr VARCHAR NOT NULL, 
	ipv6_cidr VARCHAR, 
	ipv6_association_id VARCHAR, 
	zone VARCHAR NOT NULL, 
	zone_id VARCHAR NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (subnet_id), 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id)
);
INSERT INTO "subnets" VALUES(1,'subnet-0a','vpc-0a','10.0.0.0/24',NULL,NULL,'us-east-1a','use1-az1',2);
CREATE TABLE tags (
	number INTEGER NOT NULL, 
	resource_id VARCHAR NOT NULL, 
	resource_type VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (resource_id, "key")
);
CREATE TABLE vpc_cidrs (
	number INTEGER NOT NULL, 
	association_id VARCHAR NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	family INTEGER NOT NULL, 
	cidr VARCHAR NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (association_id), 
	FOREIGN KEY(vpc_id) REFERENCES vpcs (vpc_id) ON DELETE CASCADE
);
INSERT INTO "vpc_cidrs" VALUES(1,'vpc-cidr-assoc-0a','vpc-0a',4,'10.0.0.0/16');
CREATE TABLE vpcs (
	number INTEGER NOT NULL, 
	vpc_id VARCHAR NOT NULL, 
	created_ms BIGINT NOT NULL, 
	PRIMARY KEY (number), 
	UNIQUE (vpc_id)
);
INSERT INTO "vpcs" VALUES(1,'vpc-0a',1);
CREATE INDEX ix_flow_logs_resource_id ON flow_logs (resource_id);
CREATE INDEX ix_client_tokens_created_ms ON client_tokens (created_ms);
CREATE INDEX ix_agents_revision ON agents (revision);
CREATE INDEX ix_vpc_cidrs_vpc_id ON vpc_cidrs (vpc_id);
CREATE INDEX ix_subnets_vpc_id ON subnets (vpc_id);
CREATE INDEX ix_flow_log_tag_fields_flow_log_id ON flow_log_tag_fields (flow_log_id);
CREATE INDEX ix_security_groups_vpc_id ON security_groups (vpc_id);
CREATE INDEX ix_network_acls_vpc_id ON network_acls (vpc_id);
CREATE INDEX ix_prefix_list_entries_prefix_list_id ON prefix_list_entries (prefix_list_id);
CREATE INDEX ix_iam_access_key_user_key ON iam_access_key (user_key);
CREATE INDEX ix_iam_access_key_agent ON iam_access_key (agent);
CREATE INDEX log_stream_time ON log_stream (group_id, coalesce(last_ms, 0), name);
CREATE UNIQUE INDEX log_stream_name ON log_stream (group_id, name);
CREATE INDEX ix_route_tables_vpc_id ON route_tables (vpc_id);
CREATE INDEX ix_network_interfaces_vpc_id ON network_interfaces (vpc_id);
CREATE INDEX ix_network_interfaces_subnet_id ON network_interfaces (subnet_id);
CREATE INDEX ix_security_group_rules_prefix_list_id ON security_group_rules (prefix_list_id);
CREATE INDEX ix_security_group_rules_referenced_group_id ON security_group_rules (referenced_group_id);
CREATE INDEX ix_security_group_rules_group_id ON security_group_rules (group_id);
CREATE INDEX ix_network_acl_associations_acl_id ON network_acl_associations (acl_id);
CREATE INDEX ix_route_table_associations_vpc_id ON route_table_associations (vpc_id);
CREATE INDEX ix_route_table_associations_route_table_id ON route_table_associations (route_table_id);
CREATE INDEX ix_routes_target ON routes (target);
CREATE INDEX addresses_of_interface ON addresses (interface_id);
CREATE INDEX addresses_by_value ON addresses (subnet_id, family, value);
CREATE INDEX ix_bindings_agent ON bindings (agent);
CREATE INDEX ix_bindings_instance_id ON bindings (instance_id);
CREATE INDEX interface_groups_by_group ON interface_groups (group_id);
CREATE INDEX ix_nat_gateways_subnet_id ON nat_gateways (subnet_id);
CREATE INDEX ix_nat_gateways_vpc_id ON nat_gateways (vpc_id);
DELETE FROM "sqlite_sequence";
COMMIT;
