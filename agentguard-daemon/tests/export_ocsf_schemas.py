"""Writes the published OCSF schemas of the classes that agentguard uses: export_ocsf_schemas.py DIRECTORY

Needs the PyPI package ocsf-json-schema 1.2.0. For each class there is CLASS_UID.json, its JSON Schema with our
profiles, and captions.json holds what that form leaves out: {class uid or object: {attribute: {id: caption}}}.
"""

import json
import pathlib
import sys

from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

CLASSES = ["network_activity", "entity_management", "application_lifecycle", "application_error"]
OBJECTS = ["network_connection_info", "device", "os", "file", "managed_entity"]
PROFILES = ["host", "security_control", "container"]


def captions(attributes):
    return {
        name: {number: value["caption"] for number, value in attribute["enum"].items()}
        for name, attribute in attributes.items()
        if "enum" in attribute
    }


directory = pathlib.Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)
schema = get_ocsf_schema(version="1.8.0")
embedded = OcsfJsonSchemaEmbedded(schema)
all_captions = {name: captions(schema["objects"][name]["attributes"]) for name in OBJECTS}
for name in CLASSES:
    uid = schema["classes"][name]["uid"]
    text = json.dumps(embedded.get_class_schema(class_name=name, profiles=PROFILES))
    (directory / f"{uid}.json").write_text(text)
    all_captions[str(uid)] = captions(schema["classes"][name]["attributes"])
(directory / "captions.json").write_text(json.dumps(all_captions))
