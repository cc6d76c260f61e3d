"""Values of the OCI specifications. Pure: nothing here touches the machine."""
