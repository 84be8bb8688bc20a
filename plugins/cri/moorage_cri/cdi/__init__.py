"""The Container Device Interface (github.com/cncf-tags/container-device-interface, SPEC.md): devices of vendors, by name."""
