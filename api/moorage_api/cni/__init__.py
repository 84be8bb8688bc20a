"""The Container Network Interface without I/O: configurations, calls of plugins, and what their results say.

Source: the CNI specification, 0.3.1 to 1.0.0 (https://www.cni.dev/docs/spec/).
"""
