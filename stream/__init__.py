"""What happens: the only package that touches the world: Kafka, disk, environment, time."""
